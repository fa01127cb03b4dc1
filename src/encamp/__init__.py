"""encamp: private folders for tasks, on the hosts that do the work.

Runs functions and command lines on one or many machines. Each task gets a private folder on its
host's own disk with its inputs mirrored into it; its outputs are published whole.

Every public name is loaded when it is first used, so that ``import encamp`` costs almost nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from encamp.version import __version__

_HOMES = {
    "Call": "encamp.jobs.steps",
    "Progress": "encamp.jobs.progress_interface",
    "Command": "encamp.jobs.steps",
    "Job": "encamp.jobs.job",
    "Task": "encamp.jobs.steps",
    "call": "encamp.jobs.steps",
    "command": "encamp.jobs.steps",
    "map_files": "encamp.jobs.map_files",
    "outputs_of": "encamp.jobs.outputs_of",
    "Mirror": "encamp.storage.inputs.mirror",
    "Output": "encamp.storage.outputs.patterns",
    "Cluster": "encamp.cluster.cluster",
    "freeze_support": "encamp.frozen_programs",
    "ClusterError": "encamp.errors",
    "CurrentTask": "encamp.slot.current_task",
    "Executor": "encamp.executor",
    "Group": "encamp.services.group",
    "Parameters": "encamp.services.parameters",
    "Proxy": "encamp.services.proxy",
    "Result": "encamp.services.result",
    "Service": "encamp.services.service",
    "ServiceError": "encamp.errors",
    "ServiceStatistics": "encamp.service_statistics",
    "copy_files": "encamp.services.copy_files",
    "current_server": "encamp.services.server",
    "gather": "encamp.services.collective_calls",
    "Host": "encamp.cluster.events",
    "HostAdded": "encamp.cluster.events",
    "HostDeleted": "encamp.cluster.events",
    "Received": "encamp.wire.protocol",
    "SPAWNER": "encamp.cluster.cluster",
    "SpawnedTask": "encamp.cluster.task",
    "TaskExit": "encamp.cluster.events",
    "TaskResult": "encamp.cluster.events",
    "current_task": "encamp.slot.current_task",
    "current_sandbox": "encamp.storage.sandbox",
    "sandbox": "encamp.storage.sandbox",
    "sandboxed": "encamp.storage.sandbox",
    "AttemptReport": "encamp.reports",
    "JobReport": "encamp.reports",
    "JobStatus": "encamp.job_status",
    "TaskReport": "encamp.reports",
    "EncampError": "encamp.errors",
    "InputError": "encamp.errors",
    "JobFailed": "encamp.reports",
    "StorageError": "encamp.errors",
    "TaskError": "encamp.errors",
}

__all__ = [
    "SPAWNER",
    "AttemptReport",
    "Call",
    "Cluster",
    "ClusterError",
    "Command",
    "CurrentTask",
    "EncampError",
    "Executor",
    "Group",
    "Host",
    "HostAdded",
    "HostDeleted",
    "InputError",
    "Job",
    "JobFailed",
    "JobReport",
    "JobStatus",
    "Mirror",
    "Output",
    "Parameters",
    "Progress",
    "Proxy",
    "Received",
    "Result",
    "Service",
    "ServiceError",
    "ServiceStatistics",
    "SpawnedTask",
    "StorageError",
    "Task",
    "TaskError",
    "TaskExit",
    "TaskReport",
    "TaskResult",
    "__version__",
    "call",
    "command",
    "copy_files",
    "current_sandbox",
    "current_server",
    "current_task",
    "freeze_support",
    "gather",
    "map_files",
    "outputs_of",
    "sandbox",
    "sandboxed",
]

if TYPE_CHECKING:
    from encamp.cluster.cluster import SPAWNER, Cluster
    from encamp.cluster.events import Host, HostAdded, HostDeleted, TaskExit, TaskResult
    from encamp.cluster.task import SpawnedTask
    from encamp.errors import (
        ClusterError,
        EncampError,
        InputError,
        ServiceError,
        StorageError,
        TaskError,
    )
    from encamp.executor import Executor
    from encamp.frozen_programs import freeze_support
    from encamp.job_status import JobStatus
    from encamp.jobs.job import Job
    from encamp.jobs.map_files import map_files
    from encamp.jobs.outputs_of import outputs_of
    from encamp.jobs.progress_interface import Progress
    from encamp.jobs.steps import Call, Command, Task, call, command
    from encamp.reports import AttemptReport, JobFailed, JobReport, TaskReport
    from encamp.service_statistics import ServiceStatistics
    from encamp.services.collective_calls import gather
    from encamp.services.copy_files import copy_files
    from encamp.services.group import Group
    from encamp.services.parameters import Parameters
    from encamp.services.proxy import Proxy
    from encamp.services.result import Result
    from encamp.services.server import current_server
    from encamp.services.service import Service
    from encamp.slot.current_task import CurrentTask, current_task
    from encamp.storage.inputs.mirror import Mirror
    from encamp.storage.outputs.patterns import Output
    from encamp.storage.sandbox import current_sandbox, sandbox, sandboxed
    from encamp.wire.protocol import Received


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'encamp' has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(home), name)  # later accesses do not get here
    return found


def __dir__() -> list[str]:
    return [*globals(), *__all__]
