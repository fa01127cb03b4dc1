"""Operations on files and folders: copying, flushing, removing, and their owners.

This package deals with disks and kernels. It does not know inputs, outputs or tasks.
"""
