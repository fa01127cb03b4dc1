"""The lasting results of a run: the report, its page, the trace and the table.

Its input are dataclasses of `encamp.reports`; nothing here decides what runs.
"""
