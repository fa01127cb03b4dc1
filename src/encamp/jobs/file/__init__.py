"""Job files (docs/jobfile.md): TOML, its tables as types, and how they become tasks.

This package only reads job files; the job itself is in `encamp.jobs`.
"""
