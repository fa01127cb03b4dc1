"""Undoing what a call has done to its process, and ending the processes that it has started.

Nothing here knows slots, calls or messages: the slot enters an isolation as a context.

restore_process      contexts that restore the process, or only its current folder
restored_properties  the properties that a call may change: how to look at each and restore it
process_tree         ends processes together with all their descendants
process_isolation    both of these for a slot's own process
"""
