"""The interface of the ISD grid: its clients run with new import lines, on any engine.

    hosts = create_host_list(["node1", "node2"])
    grid = Grid(hosts, src_path, display, X11_delay, debug, verbose, shared_temp_path)
    service_id = grid.publish(instance)
    proxy = grid.acquire_service(service_id)

Names, arguments and order of calls are those of the grid. Unlike the grid, this interface loses no
errors, arguments or clients: `Result.get` raises the error of a remote call, `scatter` refuses a
wrong number of arguments, and a client that dies affects no other client.
"""

from encamp.compat.isd.grid import (
    EXCLUDE,
    AbstractGrid,
    FileBasedGrid,
    Grid,
    PyroGrid,
    use_cluster,
)
from encamp.compat.isd.hosts import Host, create_host_list
from encamp.compat.isd.servers import Proxy, Server
from encamp.compat.isd.service import AbstractService
from encamp.services.result import Result

__all__ = [
    "EXCLUDE",
    "AbstractGrid",
    "AbstractService",
    "FileBasedGrid",
    "Grid",
    "Host",
    "Proxy",
    "PyroGrid",
    "Result",
    "Server",
    "create_host_list",
    "use_cluster",
]
