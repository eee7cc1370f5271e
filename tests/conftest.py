"""Hypothesis runs the same examples everywhere, and never fails for being slow; which native code is tested."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "ci",
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("ci")

# One worker of pytest-xdist a core, and one thread of PyTorch a worker, which reads this when it is imported.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# `make sanitize`: these modules, not the installed ones.
for variable, name in (("TERNFMT_TEST_NATIVE", "ternfmt._native"), ("TERNFMT_TEST_CPU", "ternfmt_kernels._cpu")):
    if path := os.environ.get(variable):
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Tests that ask for `implementation` run with numpy and with every instruction set of this machine."""
    if "implementation" in metafunc.fixturenames:
        from ternfmt import native

        metafunc.parametrize("implementation", native.available(), indirect=True)


@pytest.fixture
def implementation(request: pytest.FixtureRequest) -> Iterator[str]:
    """What does the work that native code can do."""
    from ternfmt import native

    with native.using(request.param):
        yield request.param
