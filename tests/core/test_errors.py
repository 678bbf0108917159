import inspect
import pickle

import pytest

from swegym.core import errors
from swegym.core.errors import ConfigError, RewardError, SandboxLost, SwegymError, UnknownName, boundary

CLASSES = [item for _, item in inspect.getmembers(errors, inspect.isclass) if issubclass(item, SwegymError)]


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_error_crosses_processes(kind: type[SwegymError]) -> None:
    error = kind("reward", "x", ["cwm", "xy"]) if kind is UnknownName else kind("what went wrong")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert str(again) == str(error)
    assert kind.__name__ in errors.__all__
    assert kind.__doc__


def test_unknown_name_keeps_its_fields() -> None:
    error = pickle.loads(pickle.dumps(UnknownName("env", "swegym/Tin-v0", ["swegym/Tiny-v0"])))
    assert (error.kind, error.name, error.known) == ("env", "swegym/Tin-v0", ["swegym/Tiny-v0"])


def test_boundary_attributes_foreign_errors_and_passes_our_own() -> None:
    with (
        pytest.raises(RewardError, match="scoring: ZeroDivisionError: division by zero") as caught,
        boundary(RewardError, "scoring"),
    ):
        _ = 1 / 0
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    with pytest.raises(SandboxLost, match="gone"), boundary(RewardError, "scoring"):
        raise SandboxLost("gone")
    with pytest.raises(KeyboardInterrupt), boundary(RewardError, "scoring"):
        raise KeyboardInterrupt


def test_the_users_mistakes_end_with_status_2() -> None:
    assert ConfigError.exit_code == UnknownName.exit_code == errors.DependencyMissing.exit_code == 2
    assert errors.TrainingError.exit_code == 1
