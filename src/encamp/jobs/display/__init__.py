"""The display of a run for people.

Nothing here blocks on a terminal or ends a run, and no run depends on it.
"""
