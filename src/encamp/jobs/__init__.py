"""Jobs: tasks with phases, a journal, resume and a report, on any executor.

This package holds the job as its user writes it, and its run. ``file`` reads job files,
``templates`` fills placeholders, ``plan`` finds out what is known before anything runs, ``worker``
runs one attempt, ``report`` and ``display`` show results and progress to people. Jobs use engines
and clusters only as executors.
"""
