"""One API over all engines: hosts, slots, spawned tasks, messages and events.

Here lives the controller's end: what is known of tasks and hosts, and which task goes where.
What runs on hosts is `encamp.agent`, what carries frames there `encamp.engines`.
"""
