"""MPI: ranks are agents; frames are MPI messages, or go through rank 0 of a launched job.

engine      opens this process's end: an agent's, or the controller's if it is a rank
launch      a controller outside of MPI, which starts mpiexec and talks to rank 0
gateway     rank 0 of such a job; run is the controller's view of the job
endpoint    sending and receiving as a rank; inbox and one_host are its shortcuts
hosts, processes, leftovers  the ranks' hosts, which ranks live, what a job leaves behind
"""
