"""Parameters: values that are set on the server before each call, and read back after it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from concurrent.futures import Future
from typing import Any

from encamp.errors import WrongType
from encamp.services.argument_checks import check_name, named, texts
from encamp.services.proxy import pickled
from encamp.services.result import Result
from encamp.services.server import ParameterCall
from encamp.services.service import Service, apply, new_result


class Parameters(MutableMapping[str, Any]):
    """A service with parameter values, as a mapping.

    Each call first sets all values, with ``set_NAME(value)`` if the object has such a method, and
    otherwise as attributes. The values of ``read`` are read back after it, with ``get_NAME()`` or
    as attributes. A call uses the values at the time when you make it. If calls overlap, the values
    that are read back are those of the call that ends last.
    """

    def __init__(
        self,
        service: Service,
        values: Mapping[str, Any] | None = None,
        read: str | Iterable[str] = (),
    ) -> None:
        if not isinstance(service, Service):
            raise WrongType("service", f"must be what publish returned, not {service!r}")
        self.service = service
        self._values = {} if values is None else named("values", values)
        self._read: tuple[str, ...] = ()
        self.read_back(read)

    def read_back(self, names: str | Iterable[str]) -> None:
        """Read these values back after each call from now on."""
        found = texts("read", names)
        for name in found:
            check_name("read", name)
        self._read = found

    def call(self, method: str, /, *args: Any, **kwargs: Any) -> Result:
        """Set the values on any free server, call a method there, and read values back."""
        service = self.service
        check_name(service.name, method)
        applied = ParameterCall(dict(self._values), self._read, method, args, kwargs)
        result = new_result(service, method)
        inner = apply(service, method, pickled(service.name, method, (applied,), {}))

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
        check_name("values", name)
        self._values[name] = value

    def __delitem__(self, name: str) -> None:
        del self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"<Parameters of {self.service.id}: {self._values!r}>"
