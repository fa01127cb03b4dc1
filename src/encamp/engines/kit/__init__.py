"""Code that engines share; no engine knows another.

hostfile, cores         hosts as users write them; cores of hosts
interpreter, foreign    starting an interpreter like this one, and its environment
ssh, logins             programs on other hosts, which end with this one; many logins at once
sentinel, waker, streams    ends of processes, waking a thread, missing standard streams
in_process              the endpoint of an agent in the controller's own process
start_agents            starting an agent for a process of another system
mesh                    frames for systems that have no channel for them
"""
