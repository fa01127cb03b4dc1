"""One host's disk: private folders, whose they are and how long, and the shared roots of hosts.

``inputs`` plans and places what goes into a folder, ``cache`` holds what tasks share, ``outputs``
brings home what was made, ``disk`` is about files as such. Nothing here knows tasks or engines.
"""
