"""The version of encamp."""

__version__ = "0.1.0.dev0"
