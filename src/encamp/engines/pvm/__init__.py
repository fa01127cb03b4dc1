"""PVM: the virtual machine starts agents, and reports who joins and leaves; frames use the mesh.

engine             the controller's end
agent              what its tasks do first
sent_variables     environment variables of the controller, for agents
libpvm             PVM's library
membership         this process as a task of the machine
machine            finds or orders a virtual machine
machine_owner      the process that starts its daemon, watches it and halts it
add_hosts          adds hosts to it
add_hosts_process  by a process of its own
host_names         what users call hosts
why_not_added      plain reasons why hosts could not be added
"""
