"""From a mirror map to a folder with files in it: the plan, and placing by the cheapest safe way.

Inputs that several tasks share are kept by `encamp.storage.cache`. The outputs of tasks are in
`encamp.storage.outputs`.
"""
