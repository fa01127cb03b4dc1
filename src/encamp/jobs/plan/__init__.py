"""All that is known of a job before anything runs: inputs, order, keys, and what is wrong with it.

Nothing here runs a task or changes a destination.
"""
