"""The journal of a job: its lines, its file, and what they say about tasks.

Only its own run writes to it. Nothing here decides which tasks must run.
"""
