"""Seconds that processes and hosts may take to end, answer and start.

Each timeout covers everything that the awaited process itself waits for, plus a margin:

    a process asked to end    GRACE, then it is killed
    a slot, a helper thread   ENDS       = GRACE + MARGIN
    an agent with its slots   AGENT_ENDS = ENDS + GRACE (for processes left behind) + MARGIN
    all agents of a cluster   ALL_END    = AGENT_ENDS + MARGIN
    the tasks of a job        JOB_ENDS   = ALL_END + ENDS

A host is lost to the controller if it answers no ping for ``BEAT * MISSED`` seconds.
Intervals of polling, and limits of one system's own protocol, are defined where they are used.
"""

from __future__ import annotations

MARGIN = 1.0
"""Added at each level to the time that the awaited process needs."""
ANSWERS = 1.0
"""For a slot to answer a recall; after this time it is ended without an answer."""
GRACE = 2.0
"""From asking a process to end until it is killed: a command, a slot, a launcher."""
ENDS = GRACE + MARGIN
AGENT_ENDS = ENDS + GRACE + MARGIN
ALL_END = AGENT_ENDS + MARGIN
JOB_ENDS = ALL_END + ENDS
KILLED = 5.0
"""Until a killed process has ended; one that hangs in the kernel may take forever."""
LEAVES = 5.0
"""To send the remaining frames before leaving, while none of them is received."""

BEAT = 1.5
"""Between two pings."""
MISSED = 5
"""An agent counts as lost after this many consecutive pings without an answer."""
LOST_BY_OTHERS = 2 * BEAT
"""An agent that cannot be reached by other agents counts as lost after this time."""
REPLACED = 20.0
"""For other hosts to join after the last one has left."""
CONTROLLER_SILENT = 600.0
"""Agents on other hosts end themselves after this time without a frame from the controller."""

CONNECTS = 5.0
"""To connect to a host that is up."""
GREETS = 2 * CONNECTS
"""To authenticate to the process that accepted; for another system's server to answer."""
GREETED = 2 * GREETS
"""To be authenticated by the process that accepted, which may have many others to authenticate."""
LOGS_IN = 10.0
"""For ssh to connect, and for the command that it has started to answer or to end."""
LOGS_IN_AGAIN = 3 * LOGS_IN
"""For logins that a busy server refuses."""
STARTS = 60.0
"""For Python to start with all its imports, on a slow shared disk; for a busy program to answer."""
ALL_START = 2 * STARTS
"""For all processes of a parallel program."""
