"""One API over all engines: hosts, slots, spawned tasks, messages and events.

This package is the controller's side of a cluster: what it knows of tasks and hosts, and which task
goes where. `encamp.agent` runs on the hosts; `encamp.engines` carries the frames there.

cluster               what users call: `Cluster`
cluster_options       the options of `Cluster`
spawn_options         the options of a call
task                  a spawned task as its user sees it
events                what a cluster reports: ends of tasks, hosts that come and go
port                  operations that executors, jobs and `encamp.compat` need, and users do not
controller            handles what arrives, and sends calls
records               tasks, slots and hosts at the controller, and their states
scheduler             which task runs where
call_setup            what a call needs besides its function: folder, devices, limits
sent_functions        functions, sent once to each slot
message_queue         messages for the program, and for tasks that have not started
kill_and_cancel       taking calls back, and ending them
task_output           output of tasks that has arrived
print_output          prints the output of tasks, in whole lines
disk_thread           work with files, in a thread beside the loop
start_hosts           how a cluster starts
hosts_join_and_leave  agents: how they join, are watched, and leave
hosts_table           hosts, slots and tasks as text
services_interface    how services follow tasks and hosts
closing               how a cluster ends
"""
