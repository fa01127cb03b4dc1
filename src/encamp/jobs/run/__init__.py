"""One run of a job, at its controller: which tasks run, which are tried again, what is published.

What workers need of a run is beside it: `encamp.jobs.run_clock`, `encamp.jobs.run_interrupts`.
"""
