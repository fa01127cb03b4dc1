"""One attempt at a task, at the executor's worker: its slot, its phases, and what comes of it.

What is here runs on the task's host. It publishes nothing and writes no journal; the controller's
side is `encamp.jobs.run`.
"""
