"""What all tests share: where fastxent is imported from, and the backends."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from pathlib import Path

import pytest

_TESTS = Path(__file__).resolve().parent

# `python -m pytest` puts the current folder on the path. In the root of a checkout that would
# shadow the installed package with its sources.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != _TESTS.parent]
sys.path.append(str(_TESTS))  # for support.py

# A background job of a shell starts without it; programs that are interrupted here would, too.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Of pytest-xdist, whose worker this may be. What tests start is none: pytest-benchmark would
# measure nothing there.
os.environ.pop("PYTEST_XDIST_WORKER", None)

try:
    from hypothesis import settings
except ModuleNotFoundError:
    # The tests that need it say so. `pytest-benchmark compare` in the root of a checkout reads this
    # file too, with nothing of the extra `test`.
    pass
else:
    settings.register_profile("ci", max_examples=300, derandomize=True, deadline=None)
    settings.register_profile("thorough", max_examples=20_000, deadline=None)
    settings.load_profile(os.environ.get("FASTXENT_HYPOTHESIS_PROFILE", "ci"))


@pytest.fixture(params=["cython", "numba"])
def backend(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def eager_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads and small chunks for small work too, so that tests of threads stay quick."""
    monkeypatch.setattr("fastxent._plan._WORK_PER_THREAD", 1)
    monkeypatch.setattr("fastxent._plan._WORK_PER_CHUNK", 64)


@pytest.fixture(params=["compiled driver", "Python driver"])
def driver(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both drivers: they take any kernel by its address."""
    if request.param == "Python driver":
        python_driver = importlib.import_module("fastxent.backends.python_driver")
        monkeypatch.setattr("fastxent.backends.driver", python_driver)
