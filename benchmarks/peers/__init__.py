"""What the figures are compared with: one small program a peer, each printing one line of JSON.

``python -m benchmarks.peers`` runs all of them, or those named; see ``launch.PEERS``.
"""
