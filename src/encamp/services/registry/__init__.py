"""All services of one cluster, at its controller: their servers, who uses them, and who waits.

Calls bypass it, straight from an end to a server (`encamp.services`).
"""
