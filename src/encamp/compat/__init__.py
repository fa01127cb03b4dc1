"""Dialects of older systems: scripts written for them run after changing their import lines."""
