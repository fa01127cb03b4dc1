"""From a task's folder to its destination: patterns, staging, sending, and publishing by rename.

A task stages; only the side that planned the task publishes. The inputs of tasks are in
`encamp.storage.inputs`.
"""
