"""The far side: slots on a host, each a process that runs one thing at a time."""
