"""MPI: ranks are agents; frames are messages of MPI, or go through rank 0 of a launched job.

engine      opening this process's end, and the controller's where it is a rank
launch      a controller outside of MPI, which starts mpiexec and talks to rank 0
gateway     rank 0 of such a job; run is the controller's view of it
endpoint    sending and receiving as a rank; inbox and near are its short ways
hosts, processes, remains    whom mpiexec starts where, who still lives, what it leaves behind
"""
