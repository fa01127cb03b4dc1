"""What engines share; no engine knows another.

hosts, logins           hosts as users write them; logging in to many of them by ssh
interpreter, foreign    starting a Python like this one, and what of the environment goes along
sentinel, waker, streams    ends of processes, ends of waits, standard streams that are missing
memory                  frames between two ends in one process

For engines that start agents by a system which has no channel for frames:

identity    the certificate of a run, which only its own ends have
link        one connection: frames inside TLS
mesh        an end of the network: frames between any two ends, directly or by the controller
begin       starting an agent's Python beside a process of that system, and ending it
engine      the controller's end: which agents there are, who comes and goes
"""
