"""How many calls are sent ahead to a slot, so that it does not have to wait for more."""

HORIZON = 0.02
"""Seconds of work that are sent ahead to a slot."""
OVERHEAD = 5e-6
"""Seconds of a slot for a call in addition to the call's own time."""
UNDIVIDED = 0.001
"""Seconds of waiting work that are not divided between busy slots: they would wait for it longer
than they would gain."""
MOST_CALLS = 4000
"""Maximum number of calls that are sent ahead to a slot."""
