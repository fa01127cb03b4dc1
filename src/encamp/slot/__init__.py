"""The process, or thread, that runs calls one at a time, each in a clean environment.

This package has the program of a slot, calls, results, and undoing their changes to the process.
`encamp.agent` and `encamp.jobs.worker` start slots and end them.

main                  the process's program: sets it up, and runs calls until its supervisor ends
slot                  takes calls and runs them one at a time
slot_command          the command that starts the process
current_task          the running task as its code sees it: messages, questions, notes
call_folder           a call in a folder of its own: inputs in, the call, outputs out
run_function          calls the user's function, also one that forks or is a coroutine
isolation             undoes what a call has changed in its process, and ends what it has started
initializer_globals   what an initializer has set, for functions that are sent by value
program_settings      loggers, keys and reloaded modules of the program
this_process          what code in a slot may ask of its supervisor
connection            the interface through which a slot sends and receives
sockets               the connection of a process
small_messages        the shortcut for small messages between tasks
shared_memory         the shortcut between a program and the slots of its host
ledger                results that are held back, where the agent can read them
printed_output        captures a task's output in a file, and sends it to the program
output_limit          files that keep only the beginning and the end of output
redirect_output       redirects the process's output to a file
numerical_threads     threads of numerical libraries
open_files_limit      the limit of open files
"""
