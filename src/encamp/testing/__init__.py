"""For tests of engines and of programs that use encamp: the conformance suite and a fake engine.

It is part of the installed package, so that engines of others can run the suite too. Tests of
encamp itself are in ``tests``, outside the package; nothing else of encamp may import this one.
"""
