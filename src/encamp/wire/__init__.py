"""All that travels between processes: frames, seals, envelopes, pickles, and what is to be sent.

Here live formats, and what makes and reads them. What is done about a message lives where it is
handled: in `encamp.slot`, `encamp.agent` and `encamp.cluster`. No engine is known here.
"""
