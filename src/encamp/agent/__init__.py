"""One host: an agent holds its slots, and passes on what goes between them and others.

Here live starting, watching and ending slots. What runs in a slot's process is `encamp.slot`; which
task goes where is decided by `encamp.cluster`, of which nothing is known here.
"""
