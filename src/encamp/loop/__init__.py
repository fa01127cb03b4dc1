"""The one event loop, which whoever waits drives, and what it shares with signals and clocks.

Here live waiting, waking, and holding signals off meanwhile. What is waited for (slots, agents,
tasks) lives above and is known here as callbacks only.
"""
