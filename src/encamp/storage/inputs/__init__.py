"""From a mirror map to a folder with files in it: the plan, and placing by the cheapest safe way.

What several tasks share comes by way of `encamp.storage.cache`. What tasks make is none of this
room: `encamp.storage.outputs`.
"""
