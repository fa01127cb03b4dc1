"""The formats of what is sent between processes: frames, seals, envelopes and pickles.

This package writes and reads them. Messages are handled in `encamp.slot`, `encamp.agent` and
`encamp.cluster`. It does not depend on engines.
"""
