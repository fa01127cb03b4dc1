"""Jobs: tasks with phases, a journal, resume and a report, on any executor.

Here live a job as its user writes it and its run by the controller. ``file`` reads job files,
``plan`` is all that is known before anything runs, ``worker`` does one attempt, ``report`` and
``display`` tell people. No engine and no cluster is needed here but as an executor.
"""
