"""One host's disk: private folders with their owners and lifetimes, and the hosts' shared roots.

``inputs`` plans and places the inputs of a folder, ``cache`` holds inputs that tasks share,
``outputs`` publishes the results, ``disk`` has operations on files. Nothing here knows tasks or
engines.
"""
