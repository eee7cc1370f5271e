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

if path := os.environ.get("TERNFMT_TEST_NATIVE"):  # `make sanitize`: this one, not the installed one
    spec = importlib.util.spec_from_file_location("ternfmt._native", path)
    assert spec is not None
    assert spec.loader is not None
    sys.modules["ternfmt._native"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["ternfmt._native"])


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
