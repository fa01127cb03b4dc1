"""One host's disk: private folders with their owners and lifetimes, and the hosts' shared roots.

``inputs`` plans the inputs of a folder, ``cache`` holds inputs that tasks share, ``placing`` brings
them into the folder, ``outputs`` publishes the results, ``disk`` has operations on files. Nothing
here knows tasks or engines.
"""
