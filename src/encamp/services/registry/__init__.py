"""All services of one cluster, at its controller: their servers, who uses them, and who waits.

Calls bypass it, straight from a client to a server (`encamp.services`).
"""
