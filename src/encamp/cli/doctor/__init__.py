"""``encamp doctor``: its checks, by where they are made, and what it prints.

doctor_command         the subcommand: asks all hosts, and prints the results
check_result           the result of a check
checks_on_each_host    run as a task on each host: Python, libraries, disks, limits
checks_between_hosts   made by the program, of a host as seen from its own: clocks, frames
port_checks            whether the hosts can connect to each other's ports
login_checks           how ssh logs in to hosts
"""
