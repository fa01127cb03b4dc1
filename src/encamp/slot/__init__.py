"""The process, or thread, that runs calls one at a time, each in a clean environment.

This package has the program of a slot, calls, results, and undoing their changes to the process.
`encamp.agent` and `encamp.jobs.worker` start slots and end them.
"""
