"""The process, or thread, that runs calls: one at a time, each with what surrounds it.

Here live the program of a slot, calls, their results, and undoing what they did to the process.
Who starts a slot and ends it lives above: `encamp.agent`, and `encamp.jobs.worker`.
"""
