"""Services: objects that live on a cluster, each server in a slot, called from anywhere.

Here live servers, and the ends where calls are made. Who has which server is decided in
``registry``, at the controller. Messages travel as those of tasks do.
"""
