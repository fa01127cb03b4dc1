"""What engines share; no engine knows another.

hosts, logins           hosts as users write them; logging in to many of them by ssh
interpreter, foreign    starting a Python like this one, and what of the environment goes along
remote                  programs on other hosts, which end with this one
sentinel, waker, streams    ends of processes, ends of waits, standard streams that are missing
memory                  frames between two ends in one process
begin                   starting an agent's Python beside a process of another system
mesh                    frames for systems that have no channel for them
"""
