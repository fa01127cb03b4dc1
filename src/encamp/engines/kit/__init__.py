"""What engines share that start agents by a system of others, which has no channel for frames.

identity    the certificate of a run, which only its own ends have
link        one connection: frames inside TLS
mesh        an end of the network: frames between any two ends, directly or by the controller
begin       starting an agent's Python beside a process of that system, and ending it
engine      the controller's end: which agents there are, who comes and goes
"""
