"""Frames between any two ends over TCP inside TLS, for systems without a channel for frames.

certificate        the certificate of a run, which only its own ends have
addresses          the address at which others reach this host
tls_connection     one connection: frames inside TLS
control_messages   messages in which ends describe themselves to each other
endpoint           an end of the network: frames to any other end, directly or by the controller
tunnel             the bytes of a connection, carried by another system
agent              an agent's end
engine             the controller's end: which agents there are, which join and leave
"""
