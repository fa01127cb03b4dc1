"""All services of one cluster, at its controller: their servers, who has them, and who waits.

What is called goes past it, straight from an end to a server (`encamp.services`).
"""
