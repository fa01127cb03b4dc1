"""From a task's folder to its destination: patterns, staging, sending, and publishing by rename.

Only who has planned the task publishes; a task stages. Which inputs a task has is none of this
room: `encamp.storage.inputs`.
"""
