"""MPI: ranks are agents; frames are MPI messages, or go through rank 0 of a launched job.

engine              opens this process's end: an agent's, or the controller's if it is a rank
initialize          loads and initialises MPI, with the threads and networks that work
communicator        of all ranks, and which processes they are
finalize            the end of a rank
endpoint            sending and receiving as a rank
inbox               what arrives at a rank, and the shortcut for small messages
one_host            rank 0 with the slots of all ranks, if they differ only in their cores
launched_engine     a controller outside MPI, which starts a launcher and talks to rank 0
launched_job        such a job as its controller sees it
find_launcher       which mpiexec is used, and of which MPI it is
launch_plan         its command line, variables and hostfile
launcher_process    the launcher while it runs, and why it has ended
mpi_variables       environment variables of MPIs and of a job's ranks
libraries           libraries of MPIs that ranks load
host_checks         why a host cannot be used: each is asked through ssh
watched_processes   which ranks live
leftovers           what a job leaves behind
"""
