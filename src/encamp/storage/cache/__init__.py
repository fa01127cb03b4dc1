"""The cache of a host: inputs that tasks share, brought there once and trusted while whole.

Here live its entries, their locks and their index. How an entry comes into a task's folder is
told in `encamp.storage.inputs`.
"""
