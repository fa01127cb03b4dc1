"""What stays of a run for people and programs: the report, its page, the trace and the table.

Facts come in as `encamp.model` has them; nothing here decides what runs.
"""
