"""One host's disk: shared roots, mirror plans, the host cache, sandboxes, output collection."""
