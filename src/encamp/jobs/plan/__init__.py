"""Everything that is known of a job before it runs: inputs, order, keys, and errors.

Nothing here runs a task or changes a destination.
"""
