"""Code that engines share; no engine knows another.

hostfile             hosts as users write them
cores                the numbers of cores of hosts
own_interpreter      starting an interpreter like this one
variables_not_inherited   variables by which MPI and PVM recognize their processes
ssh                  programs on other hosts, which end with this one
ssh_logins           many logins at once
wait_for_process     waiting for the end of a process together with other descriptors
waker                waking a thread that waits for descriptors
closed_streams       missing standard streams
in_process_agent     the endpoint of an agent in the controller's own process
start_agents         starting an agent for a process of another system
mesh                 frames for systems that have no channel for them
"""
