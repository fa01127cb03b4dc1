"""One attempt at a task, in a worker of the executor: its slot, its phases, and its outcome.

This package runs on the task's host. It publishes nothing and writes no journal; the controller's
side is `encamp.jobs.run.run_loop`.
"""
