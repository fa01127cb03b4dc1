"""Frames between any two ends over TCP inside TLS, for systems without a channel for frames.

identity    the certificate of a run, which only its own ends have
routes      by which address others reach this host
link        one connection: frames inside TLS
mesh        an end of the network: frames between any two ends, directly or by the controller
agent       an agent's end
engine      the controller's end: which agents there are, who comes and goes
"""
