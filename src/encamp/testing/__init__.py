"""For tests of engines and of programs that use encamp: the conformance suite and a fake engine."""
