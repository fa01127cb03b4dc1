"""Dask: an agent for each worker; frames go over the mesh.

engine      the controller's end, through a client of the user's or its own
hosts       a Dask cluster that the engine starts on hosts
relay       tunnels through Dask's scheduler
worker      what workers run to start and end agents
leases      the tasks that show Dask what encamp runs, so that adaptive clusters scale
"""
