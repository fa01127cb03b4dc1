"""The cache of a host: inputs that tasks share, fetched once, and checked before each use.

This package has its entries, their locks and their index. `encamp.storage.placing` brings an entry
into a task's folder.
"""
