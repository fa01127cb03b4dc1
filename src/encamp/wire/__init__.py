"""Everything that is sent between processes: frames, seals, envelopes, pickles, and the outbox.

This package has the formats, and the code that writes and reads them. Messages are handled in
`encamp.slot`, `encamp.agent` and `encamp.cluster`. No engine is known here.
"""
