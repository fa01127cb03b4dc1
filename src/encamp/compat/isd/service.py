"""`AbstractService`: a service with parameters that are set before each call and read after it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from encamp.services.parameters import Parameters
from encamp.services.result import Result

if TYPE_CHECKING:
    from encamp.compat.isd.grid import AbstractGrid


class AbstractService:
    """Calls any free server, with parameters.

    Each call acquires a server, calls ``set_NAME(value)`` for all parameters, the method, and
    ``get_NAME()`` for those that are read back, and releases the server. Public names are methods.
    """

    def __init__(self, grid: AbstractGrid, service_id: str) -> None:
        self.grid, self.service_id = grid, service_id
        self.parameters = Parameters(grid.service(service_id))

    def set_parameters(self, values: Mapping[str, Any]) -> None:
        """Set these before each call."""
        self.parameters.update(values)

    def get_parameters(self) -> dict[str, Any]:
        """The values, as they were last set or read back."""
        return dict(self.parameters)

    def read_back(self, names: Iterable[str]) -> None:
        """Read the values of these after each call."""
        self.parameters.read_back(names)

    def __getattr__(self, name: str) -> Callable[..., Result]:
        if name.startswith("_"):
            raise AttributeError(name)
        parameters = self.parameters

        def call(*args: Any, **kwargs: Any) -> Result:
            return parameters.call(name, *args, **kwargs)

        return call
