"""Templates: strings with placeholders, and how to fill them, shell lines included.

Nothing here knows of jobs or files of jobs.
"""
