"""For those who test engines and programs of encamp: the conformance suite and a fake engine."""
