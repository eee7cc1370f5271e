"""Deliberately wrong implementations: the reference with one small change each."""

from __future__ import annotations
import __future__ as future

import importlib
import inspect
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import reduce
from typing import Any
from unittest import mock

from ternfmt import native

Change = Callable[[], AbstractContextManager[Any]]
"""Makes the change for as long as the context lasts."""


@dataclass(frozen=True)
class Mutant:
    """A wrong implementation.

    Attributes:
        rule: the one that it breaks; a case that cites this rule must find out.
        name: what it does wrong.
        change: what makes it do so.
        crashes: it may fail with an exception of its own.
    """

    rule: str
    name: str
    change: Change
    crashes: bool = False


def edit(target: str, *replacements: tuple[str, str], only: str = "ternfmt") -> Change:
    """Replace text in the source of a function ``module:name`` or ``module:Class.name``; each text occurs once.

    ``only`` limits the change to modules whose names start so.
    """

    @contextmanager
    def change() -> Iterator[None]:
        owner, name, original = _find(target)
        source = textwrap.dedent(inspect.getsource(original))
        for old, new in replacements:
            assert source.count(old) == 1, f"{target}: {old!r} occurs {source.count(old)} times: mend the mutant"
            source = source.replace(old, new)
        code = compile(source, f"<mutant of {target}>", "exec", future.annotations.compiler_flag, dont_inherit=True)
        found: dict[str, Any] = {}
        exec(code, original.__globals__, found)
        with _replaced(owner, name, original, found[original.__name__], only):
            yield

    return change


def replace(target: str, make: Callable[[Any], Any]) -> Change:
    """Put ``make(original)`` in the place of ``module:name`` or ``module:Class.name``."""

    @contextmanager
    def change() -> Iterator[None]:
        owner, name, original = _find(target)
        with _replaced(owner, name, original, make(original)):
            yield

    return change


def constant(target: str, value: Any) -> Change:
    """Give a module's variable another value, in that module alone."""

    @contextmanager
    def change() -> Iterator[None]:
        module, name = target.split(":")
        with mock.patch.object(importlib.import_module(module), name, value):
            yield

    return change


def both(*changes: Change) -> Change:
    """Several changes that make one fault."""

    @contextmanager
    def change() -> Iterator[None]:
        with ExitStack() as stack:
            for part in changes:
                stack.enter_context(part())
            yield

    return change


def skip(target: str) -> Change:
    """Let a check do nothing."""
    return replace(target, lambda _: lambda *args, **kwargs: None)


def _find(target: str) -> tuple[Any, str, Any]:
    module, path = target.split(":")
    *owners, name = path.split(".")
    owner = reduce(getattr, owners, importlib.import_module(module))
    return owner, name, getattr(owner, name)


@contextmanager
def _replaced(owner: Any, name: str, original: Any, new: Any, only: str = "ternfmt") -> Iterator[None]:
    """Replace an object wherever modules of ours have it under its name."""
    with ExitStack() as stack:
        if isinstance(owner, type):
            stack.enter_context(mock.patch.object(owner, name, new))
        for module in [m for m in list(sys.modules.values()) if getattr(m, "__name__", "").startswith(only)]:
            if vars(module).get(name) is original:
                stack.enter_context(mock.patch.object(module, name, new))
        yield


PLAINLY = both(
    replace("ternfmt.container:header_at_once", lambda _: lambda *_: None),
    lambda: native.using(native.NUMPY),
)
"""Leave everything to the plain code, which is what mutants change; other tests compare the fast ways with it."""
