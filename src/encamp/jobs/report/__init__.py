"""The lasting results of a run: the report, its page, the trace and the table.

Its facts come as dataclasses of `encamp.reports`; nothing here decides what runs.
"""
