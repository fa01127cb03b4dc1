"""The program's logging settings, `multiprocessing` key and reloaded modules, for calls in a slot.

A slot's process does not run the program's script, so the program sends the levels and formats that
`logging.basicConfig` and the like have set. The slot logs to its standard error, which is the
task's output. A slot imports the new versions of modules that the program has reloaded.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec

from encamp.slot.isolation.restored_properties import set_up_loggers

_LOOK_AGAIN = 0.02
"""Seconds after which all loggers are checked again, even if the root logger is unchanged."""
_CAPTURED = "_warnings_showwarning"
"""Attribute of `logging` that is set while it captures warnings."""
_CONNECTION = "multiprocessing.connection"
"""A process that has imported this module may use its key to talk with others."""
_PLAIN = "%(levelname)s:%(name)s:%(message)s"
_LIBRARIES = (str(Path(os.__file__).parent) + os.sep, str(Path(__file__).parents[1]) + os.sep)
"""Folders of modules that are not reloaded: Python's own and encamp's."""


class Handler(msgspec.Struct, array_like=True, frozen=True):
    """A handler of the program that writes log records."""

    level: int
    format: str
    dates: str | None
    style: str


class Logger(msgspec.Struct, array_like=True, frozen=True):
    """A logger that does not have the defaults. The root's name is empty."""

    name: str
    level: int
    propagate: bool
    handlers: list[Handler]


class ProgramSettings(msgspec.Struct, array_like=True, frozen=True):
    """The settings that are sent to slots."""

    loggers: list[Logger] = []
    disabled: int = 0
    warnings: bool = False
    """Whether warnings are logged."""
    key: bytes = b""
    """The `authkey` of `multiprocessing`."""
    reloads: list[str] = []
    """Modules that the program has reloaded, each as often as it was."""


_NOTHING = ProgramSettings()


class SettingsSource:
    """The settings of this process. They contain a key, so they are sent only where calls are."""

    def __init__(self) -> None:
        self._encoded = b""
        self._reloads = Reloads()
        self._quick: object = None
        self._looked = 0.0

    def now(self) -> bytes:
        """The settings, encoded; the same object as long as nothing has changed."""
        reloads = self._reloads.look()
        quick, now = (*_quick_look(), len(reloads)), time.monotonic()
        if quick != self._quick or now - self._looked > _LOOK_AGAIN:
            self._quick, self._looked = quick, now
            settings = msgspec.structs.replace(_read(), reloads=reloads)
            encoded = (
                b""
                if settings == _NOTHING and not self._encoded
                else msgspec.msgpack.encode(settings)
            )
            if encoded != self._encoded:
                self._encoded = encoded
        return self._encoded


def apply_settings(encoded: bytes) -> ProgramSettings:
    """Apply the settings to this process, except that reloads are left to the caller."""
    settings = msgspec.msgpack.decode(encoded, type=ProgramSettings)
    if settings.loggers or settings.disabled or "logging" in sys.modules:
        _log_as(settings)
    if settings.key:
        from multiprocessing import current_process

        current_process().authkey = settings.key
        _Key.from_another = True
    return settings


class _Key:
    from_another = False
    """Whether this process has its key from another one, and passes it on to its own slots."""

    @staticmethod
    def is_known() -> bool:
        """Whether another process can know this process's key."""
        return _Key.from_another or _CONNECTION in sys.modules


def _quick_look() -> tuple[object, ...]:
    logging = sys.modules.get("logging")
    key = _Key.from_another or _CONNECTION in sys.modules
    if logging is None:
        return (key,)
    root = logging.root
    manager, captured = root.manager, getattr(logging, _CAPTURED, None)
    return key, root.level, root.handlers[:], manager.disable, len(manager.loggerDict), captured


def _read() -> ProgramSettings:
    found: bytes = b""
    if _Key.is_known():
        from multiprocessing import current_process

        found = bytes(current_process().authkey)
    logging = sys.modules.get("logging")
    if logging is None:
        return ProgramSettings(key=found)
    there = [logging.root, *list(logging.root.manager.loggerDict.values())]
    loggers = [_described(logging, one) for one in there if isinstance(one, logging.Logger)]
    changed = [one for one in loggers if one not in (_usual(one.name), _usual(""))]
    captured = getattr(logging, _CAPTURED, None) is not None
    return ProgramSettings(changed, logging.root.manager.disable, captured, found)


def _usual(name: str) -> Logger:
    return Logger(name, 0 if name else 30, True, [])


def _described(logging: ModuleType, logger: Any) -> Logger:
    name = "" if logger is logging.root else logger.name
    real = [one for one in logger.handlers if not isinstance(one, logging.NullHandler)]
    # A slot has one output, so one handler is enough.
    return Logger(name, logger.level, logger.propagate, [_format(one) for one in real[:1]])


def _format(handler: Any) -> Handler:
    formatter = getattr(handler, "formatter", None)
    if formatter is None:
        return Handler(getattr(handler, "level", 0), "%(message)s", None, "%")
    text = getattr(formatter, "_fmt", None)
    style = {"PercentStyle": "%", "StrFormatStyle": "{", "StringTemplateStyle": "$"}.get(
        type(getattr(formatter, "_style", None)).__name__
    )
    if not isinstance(text, str) or style is None:
        text, style = _PLAIN, "%"
    dates = getattr(formatter, "datefmt", None)
    return Handler(getattr(handler, "level", 0), text, dates, style)


def _log_as(settings: ProgramSettings) -> None:
    import logging

    class ToOutput(logging.StreamHandler[Any]):
        """Writes to the current `sys.stderr`, which may be replaced in the meantime."""

        encamp = True

        @property
        def stream(self) -> Any:
            return sys.stderr

        @stream.setter
        def stream(self, stream: object) -> None:
            pass

    before = [logger.name for logger in set_up_loggers]
    usual = {name: _usual(name) for name in ("", *before)}
    logger_settings = usual | {one.name: one for one in settings.loggers}
    set_up_loggers[:] = [logging.getLogger(name) for name in logger_settings if name]
    for described in logger_settings.values():
        logger = logging.getLogger(described.name or None)
        logger.setLevel(described.level)
        logger.propagate = described.propagate
        for old in [one for one in logger.handlers if hasattr(one, "encamp")]:
            logger.removeHandler(old)
        for handler in described.handlers:
            made = ToOutput()
            made.setLevel(handler.level)
            made.setFormatter(logging.Formatter(handler.format, handler.dates, handler.style))  # type: ignore[arg-type]
            logger.addHandler(made)
    logging.disable(settings.disabled)
    logging.captureWarnings(settings.warnings)


class Reloads:
    """The program's own modules that were reloaded, by `importlib.reload` or %autoreload."""

    def __init__(self) -> None:
        self._specs: dict[str, Any] = {}
        """The specs of modules seen so far. A reload gives a module a new one."""
        self._count = 0
        self._reloads: list[str] = []
        self.look()

    def look(self) -> list[str]:
        """The names of the reloaded modules, in the order in which the reloads were found."""
        if len(sys.modules) != self._count:
            self._count = len(sys.modules)
            for name, module in list(sys.modules.items()):
                if name not in self._specs and _is_own(module):
                    self._specs[name] = module.__spec__
        for name, known in self._specs.items():
            spec = getattr(sys.modules.get(name), "__spec__", known)
            if spec is not known:
                self._specs[name] = spec
                self._reloads = [*self._reloads, name]
        return self._reloads


def _is_own(module: Any) -> bool:
    file = getattr(module, "__file__", None)
    if not isinstance(file, str) or getattr(module, "__spec__", None) is None:
        return False
    return "site-packages" not in file and not file.startswith(_LIBRARIES)
