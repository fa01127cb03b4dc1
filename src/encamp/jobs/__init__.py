"""Jobs: tasks with phases, a journal, resume and a report, on any executor."""
