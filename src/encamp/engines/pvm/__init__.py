"""PVM: agents are tasks of the virtual machine; frames are its messages.

ends        opening this process's end; engine is the controller's, endpoint what both have
libpvm      PVM's library; pieces cuts frames into messages that it takes
machine     starting and ending a virtual machine of one's own; keeper ends it with its program
membership  which tasks belong to a cluster; hosts and naming tell and add hosts
"""
