"""From a plan to a folder with files in it, by the cheapest safe way, and checks of them later.

Plans of inputs are in `encamp.storage.inputs`, shared inputs in `encamp.storage.cache`. Nothing
here decides what a task needs.
"""
