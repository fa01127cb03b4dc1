"""What a person sees of a run while it goes on.

Nothing here waits for a terminal, ends a run, or is needed for one.
"""
