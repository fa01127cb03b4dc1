"""Seconds that processes and hosts may take to end, answer and start.

Whoever waits for something gives it the time of all that this waits for itself, and a margin:

    what was asked to end     GRACE, then it is killed
    a slot, a helper thread   ENDS       = GRACE + MARGIN
    an agent with its slots   AGENT_ENDS = ENDS + GRACE (for what they leave) + MARGIN
    all agents of a cluster   ALL_END    = AGENT_ENDS + MARGIN
    the tasks of a job        JOB_ENDS   = ALL_END + ENDS

A host is lost to the controller if it answers no ping for ``BEAT * MISSED`` seconds.
Intervals of polling, and limits of one system's own protocol, are where they are used.
"""

from __future__ import annotations

MARGIN = 1.0
"""What whoever waits for something gives it in addition."""
ANSWERS = 1.0
"""For a slot to answer whether it gives back calls; then it is ended without an answer."""
GRACE = 2.0
"""From asking a process to end until it is killed: a command, a slot, a launcher."""
ENDS = GRACE + MARGIN
AGENT_ENDS = ENDS + GRACE + MARGIN
ALL_END = AGENT_ENDS + MARGIN
JOB_ENDS = ALL_END + ENDS
KILLED = 5.0
"""Until a killed process is gone; one that hangs in the kernel may take forever."""
LEAVES = 5.0
"""To send what is still to be sent before leaving, while nothing more of it is received."""

BEAT = 1.5
"""Between two pings."""
MISSED = 5
"""Pings without an answer after which an agent counts as lost."""
LOST_BY_OTHERS = 2 * BEAT
"""After which an agent that another one has lost counts as lost, unless its end is known."""
REPLACED = 20.0
"""Within which other hosts may join after the last one has left."""
LONELY = 600.0
"""Of the controller's silence after which agents on other hosts end themselves."""

CONNECTS = 5.0
"""To connect to a host that is up."""
GREETS = 2 * CONNECTS
"""To authenticate to whoever has accepted the connection; for another system's server to answer."""
GREETED = 2 * GREETS
"""To be authenticated by whoever has accepted the connection, who may have many others to greet."""
LOGS_IN = 10.0
"""For ssh to connect, and for what it has started to answer or to end."""
LOGS_IN_AGAIN = 3 * LOGS_IN
"""For logins that a busy server refuses."""
STARTS = 60.0
"""For Python to start with all its imports, on a slow shared disk; for a busy program to answer."""
ALL_START = 2 * STARTS
"""For all processes of a parallel program."""
