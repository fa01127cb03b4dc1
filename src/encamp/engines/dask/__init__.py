"""Dask: agents run beside workers; frames go over the mesh.

engine      the controller's end, by a client of the user's or of its own
worker      what workers run to start and end agents
leases      Dask's view of what encamp runs, by which adaptive clusters scale
"""
