"""One host's side of a cluster: the agent, which runs the slots and forwards messages.

This package starts, watches and ends slots. The code that runs inside a slot is in `encamp.slot`.
`encamp.cluster` decides which task goes where; nothing here imports it.
"""
