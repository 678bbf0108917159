"""Registry: name -> "module:attr", resolved on first use, so that registering imports nothing.

Other packages add entries through an entry point group `swegym.KIND` (`swegym.tasksets`, `swegym.rewards`, ...).
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points
from typing import Generic, TypeVar

from swegym.core.errors import ConfigError, UnknownName

T = TypeVar("T")

__all__ = ["Registry", "load_object"]


def load_object(path: str) -> object:
    """Import "module:attr". Raises ConfigError for a path that does not lead anywhere."""
    module_name, _, attribute = path.partition(":")
    if not module_name or not attribute:
        raise ConfigError(f"{path!r} is not of the form 'module:attribute'")
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and not (module_name == error.name or module_name.startswith(error.name + ".")):
            raise  # the module exists and misses a dependency of its own: that message is the better one
        raise ConfigError(f"{path!r}: no module named {error.name!r}") from None
    try:
        return getattr(module, attribute)
    except AttributeError:
        raise ConfigError(f"{path!r}: module {module_name!r} has no attribute {attribute!r}") from None


class Registry(Generic[T]):
    """Names of one kind of thing."""

    def __init__(self, kind: str, entries: dict[str, str] | None = None, *, group: str = "") -> None:
        self.kind = kind
        self._paths: dict[str, str] = dict(entries or {})
        self._objects: dict[str, T] = {}
        self._group = group
        self._has_entry_points = not group

    def register(self, name: str, target: str | T, *, replace: bool = False) -> None:
        """Add a name. `target` is "module:attr" or the object itself.

        Raises:
            ConfigError: the name is taken and `replace` is False.
        """
        if not replace and (name in self._paths or name in self._objects):
            raise ConfigError(f"{self.kind} {name!r} is registered already; pass replace=True to replace it")
        self._paths.pop(name, None)
        self._objects.pop(name, None)
        if isinstance(target, str):
            self._paths[name] = target
        else:
            self._objects[name] = target

    def names(self) -> list[str]:
        self._load_entry_points()
        return sorted({*self._paths, *self._objects})

    def get(self, name: str) -> T:
        """Raises UnknownName, ConfigError."""
        if name not in self._objects:
            self._load_entry_points()
            if name not in self._paths:
                raise UnknownName(self.kind, name, self.names())
            self._objects[name] = load_object(self._paths[name])  # type: ignore[assignment]
        return self._objects[name]

    def __contains__(self, name: object) -> bool:
        return name in self.names()

    def _load_entry_points(self) -> None:
        if self._has_entry_points:
            return
        self._has_entry_points = True
        for point in entry_points(group=self._group):
            self._paths.setdefault(point.name, point.value)
