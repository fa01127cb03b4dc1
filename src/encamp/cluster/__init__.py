"""One API over all engines: hosts, slots, spawned tasks, messages and events.

This package is the controller's side of a cluster: what it knows of tasks and hosts, and which task
goes where. `encamp.agent` runs on the hosts; `encamp.engines` carries the frames there.
"""
