"""PVM: the virtual machine starts agents, and reports who joins and leaves; frames use the mesh.

engine             the controller's end
agent              what its tasks do first
libpvm             PVM's library
membership         this process as a task of the machine
machine            starts and ends a virtual machine
machine_owner      ends it with the program
add_hosts          adds hosts to it
add_hosts_process  by a process of its own
host_names         what users call hosts
why_not_added      plain reasons why hosts could not be added
"""
