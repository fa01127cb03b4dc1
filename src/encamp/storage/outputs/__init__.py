"""From a task's folder to its destination: patterns, staging, sending, and publishing by rename.

A task stages; only the side that planned the task publishes. The inputs of tasks are in
`encamp.storage.inputs`.

patterns            output maps: which files of a task's folder get which names
possible_paths      which paths that may be, before any file exists
publishable         the files, symlinks and empty folders in a task's folder that are outputs
sees_destination    whether a host sees the destination
stage               copies outputs to temporary names at the destination
send_outputs        from hosts that do not see it: in pieces, to the program
accepted_names      which final names the program accepts from hosts, and from a journal
deliveries          checks and records what was staged, and has it published
publish             renames to the final names
still_intact        whether published files are as they were
"""
