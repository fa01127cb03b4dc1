"""Parameters: values that are set on whichever server runs a call, and read back after it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from concurrent.futures import Future
from typing import Any

from encamp.services.letters import APPLY
from encamp.services.proxy import pickled
from encamp.services.result import Result
from encamp.services.server import Applied
from encamp.services.service import Service


class Parameters(MutableMapping[str, Any]):
    """A service with values of its own, as a mapping.

    Each call sets all values first, by ``set_NAME(value)`` where the object has such a method, or
    else as an attribute; ``read`` are those whose value is read back after it, by ``get_NAME()`` or
    as an attribute. Calls that are under way at the same time each have the values that there were
    when they were made; the one that ends last says what is read back.
    """

    def __init__(
        self, service: Service, values: Mapping[str, Any] | None = None, read: Iterable[str] = ()
    ) -> None:
        self.service = service
        self._values: dict[str, Any] = dict(values or {})
        self._read = (read,) if isinstance(read, str) else tuple(read)

    def call(self, method: str, /, *args: Any, **kwargs: Any) -> Result:
        """Have any free server set the values, call a method, and tell the values to be read."""
        service = self.service
        applied = Applied(dict(self._values), self._read, method, args, kwargs)
        result = Result(service._end, service.name, method)
        result.wanted = service._number
        inner = service._call(method, pickled(service.name, method, (applied,), {}), op=APPLY)

        def ended(_: Future[Any]) -> None:
            error = inner.exception()
            if error is not None:
                result.settle(None, error)
            else:
                value, read = inner.result()
                self._values.update(read)
                result.settle(value, None)

        inner.add_done_callback(ended)
        return result

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __setitem__(self, name: str, value: Any) -> None:
        self._values[name] = value

    def __delitem__(self, name: str) -> None:
        del self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"<Parameters of {self.service.id}: {self._values!r}>"
