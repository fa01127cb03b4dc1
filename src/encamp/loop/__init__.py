"""The event loop, which a waiting thread drives, with its signals and clocks.

This package waits, wakes, and defers signals in the meantime. It knows slots, agents and tasks only
as callbacks.
"""
