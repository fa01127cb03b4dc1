"""Engines: what starts agents on hosts and carries frames between them.

An engine for each system, which knows no other engine; what they share is in ``kit``. Frames are
bytes here: pickling, paths, tasks and decisions about them belong to the layers above.
"""
