"""Services: objects with state on a cluster, a server in each slot, called from anywhere.

This package has the servers and their clients. ``registry``, at the
controller, decides who uses which server. Calls and answers are messages between tasks.
"""
