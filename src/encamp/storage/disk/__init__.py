"""Files and folders as such: copying, flushing, removing, and whose they are.

Here is known what disks and kernels do, and nothing of inputs, outputs or tasks.
"""
