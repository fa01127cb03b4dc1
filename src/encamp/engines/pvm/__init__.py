"""PVM: the virtual machine starts agents, and reports which hosts come and go; frames use the mesh.

opening     opens the controller's end, which is in engine; agent is what its tasks do first
libpvm      PVM's library; membership is this process as a task of the machine
machine     starts and ends a virtual machine; keeper ends it with the program
hosts       adds hosts; naming reads what users call them, and reports errors
"""
