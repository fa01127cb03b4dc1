"""Job files (docs/jobfile.md): TOML, its tables as types, and what a line of it stands for.

What a job is lives in `encamp.jobs`; here it is only read.
"""
