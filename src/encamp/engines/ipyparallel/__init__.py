"""ipyparallel: agents run beside its engines; frames go over the mesh.

engine      the controller's end, by a client of the user's or of its own
hosts       what starts ipyparallel's engines on hosts, for a cluster of its own
"""
