"""Interfaces of older systems: scripts written for them run after changing their import lines.

``pyopus`` and ``isd`` have the names, arguments and messages of these systems. They translate to
clusters, executors and services, and add no abilities; nothing else of encamp may import them.
"""
