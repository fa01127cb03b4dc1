"""ipyparallel: an agent for each of its engines; frames go over the mesh.

engine        the controller's end, through a client of the user's or its own
own_cluster   an ipyparallel cluster that the engine starts on hosts
tunnels       tunnels through ipyparallel's controller
"""
