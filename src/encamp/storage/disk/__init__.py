"""Operations on files and folders: copying, flushing, removing, and ownership.

This package knows what disks and kernels do, but nothing of inputs, outputs or tasks.
"""
