"""The ``encamp`` command: its subcommands, their output on a terminal or as JSON, exit statuses.

Each subcommand is read and printed here; what it does is done by `encamp.jobs` and the layers
below, so no other package may import this one, and nothing here is the only way to do something.
"""
