"""From a mirror map to a plan: which files and trees a folder gets, and their states.

Nothing here writes into a folder: `encamp.storage.placing` does, and `encamp.storage.cache` keeps
inputs that several tasks share. The outputs of tasks are in `encamp.storage.outputs`.
"""
