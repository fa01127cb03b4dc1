"""The journal of a job: its lines, its file, and the state of tasks that they record.

Only its own run writes to it. Nothing here decides which tasks must run.
"""
