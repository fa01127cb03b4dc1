"""Services: objects with state on a cluster, a server in each slot, called from anywhere.

This package has the servers and their clients. ``registry``, at the
controller, decides who uses which server. Calls and answers are messages between tasks.

service               a service: its options, and calls to any free server
retried_calls         a call to any free server, made again if that server dies
proxy                 an acquired server
group                 servers that were acquired together, with ranks
collective_calls      broadcast, scatter, gather, reduce
parameters            values that are set on the server before each call
result                the result of a call
server                the task that holds the object and runs its calls
checkpoint            saving and restoring the object's state
call_statistics       how many calls, and how long they took
letters               what registry, servers and clients send each other
client                what a program, a task or a step needs to call servers
current_client        which client the calling code has
task_client           the client of a task
step_client           the client of a job's step, which asks its worker
step_questions        the questions that it asks
call_outcomes         the outcome of a call
argument_checks       checks of what users give
copy_files            files that services need on every host
xterm_windows         windows with the consoles of servers
registry              starts servers, and decides who uses which
"""
