"""Services: objects with state on a cluster, a server in each slot, called from anywhere.

This package has the servers, and the ends from which they are called. ``registry``, at the
controller, decides who uses which server. Calls and answers are messages between tasks.
"""
