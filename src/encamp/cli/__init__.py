"""The ``encamp`` command: its subcommands, their output on a terminal or as JSON, exit statuses.

This package only reads the command line and prints results. The work is done by `encamp.jobs` and
the layers below, so everything that a subcommand does can also be done from Python. No other
package may import this one.
"""
