"""``python -m benchmarks.peers [NAME…]``: a line of JSON for each peer."""

from __future__ import annotations

import json
import sys

from benchmarks.peers.launch import all_measured

if __name__ == "__main__":
    for found in all_measured(sys.argv[1:]):
        print(json.dumps(found), flush=True)
