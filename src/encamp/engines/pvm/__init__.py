"""PVM: agents are tasks of the virtual machine; frames are its messages.

opening     opens this process's end; engine is the controller's, endpoint what both share
libpvm      PVM's library; pieces cuts frames into messages that it accepts
machine     starts and ends a virtual machine; keeper ends it with the program
membership  the tasks of a cluster; hosts and naming add hosts and report errors
"""
