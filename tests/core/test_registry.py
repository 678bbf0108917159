import pytest

from swegym.core import registries
from swegym.core.errors import ConfigError, UnknownName
from swegym.core.registry import Registry, load_object


def test_names_are_resolved_on_first_use_only() -> None:
    registry: Registry[object] = Registry("thing", {"good": "math:pi", "bad": "no_such_module_here:x"})
    assert registry.names() == ["bad", "good"]
    assert registry.get("good") == 3.141592653589793
    with pytest.raises(ConfigError, match="no module named 'no_such_module_here'"):
        registry.get("bad")


def test_unknown_name_offers_near_ones_or_all() -> None:
    registry: Registry[object] = Registry("reward", {"tests": "math:pi", "cwm": "math:e"})
    with pytest.raises(UnknownName, match=r"no reward named 'test'; did you mean tests\?"):
        registry.get("test")
    with pytest.raises(UnknownName, match="known: cwm, tests"):
        registry.get("zzz")


def test_a_taken_name_is_refused_unless_replaced() -> None:
    registry: Registry[object] = Registry("thing", {"a": "math:pi"})
    with pytest.raises(ConfigError, match="registered already"):
        registry.register("a", "math:e")
    registry.register("a", "math:e", replace=True)
    assert registry.get("a") == 2.718281828459045
    registry.register("b", object)
    assert "b" in registry
    assert registry.get("b") is object


@pytest.mark.parametrize("path", ["math", "math:", ":pi", ""])
def test_malformed_paths(path: str) -> None:
    with pytest.raises(ConfigError, match="'module:attribute'"):
        load_object(path)


def test_missing_attribute_is_named() -> None:
    with pytest.raises(ConfigError, match="'math' has no attribute 'tau2'"):
        load_object("math:tau2")


@pytest.mark.parametrize("name", ["policies", "profiles", "protocols", "rewards", "sandboxes", "tasksets", "tools"])
def test_every_registered_name_leads_somewhere(name: str) -> None:
    registry: Registry[object] = getattr(registries, name)
    for entry in registry.names():
        assert registry.get(entry) is not None
