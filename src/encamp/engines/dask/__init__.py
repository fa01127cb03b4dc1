"""Dask: an agent for each worker; frames go over the mesh.

engine        the controller's end, through a client of the user's or its own
own_cluster   a Dask cluster that the engine starts on hosts
jobqueue      clusters of batch jobs
tunnels       tunnels through Dask's scheduler
worker        what workers run to start and end agents
leases        the tasks that show Dask what encamp runs, so that adaptive clusters scale
"""
