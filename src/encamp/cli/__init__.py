"""The ``encamp`` command."""
