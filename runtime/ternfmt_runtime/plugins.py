"""Register with diffusers, transformers and PEFT when they are imported, without importing them.

None of them has entry points, and importing them takes seconds. So this module watches for the
import of certain modules of theirs: whichever comes first, ``import ternfmt_runtime`` or the library,
the plug-in is in place before anything can be loaded.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

REGISTRIES = {
    "diffusers.quantizers.auto": "diffusers_plugin",
    "transformers.quantizers.auto": "transformers_plugin",
}
"""A library's module -> ours, whose import registers with it, and takes `config`."""

PATCHES = {
    "diffusers.loaders.lora_pipeline": "patch_flux_lora",
    "diffusers.loaders.single_file_utils": "patch_single_file",
    "diffusers.models.attention": "patch_attention_mixin",
    "diffusers.models.attention_processor": "patch_attention",
    "peft.tuners.lora.model": "patch_peft",
}
"""A library's module -> ours, whose import patches it, where it offers no registry."""

_WATCHED = REGISTRIES | PATCHES
_ready: set[str] = set()
"""Those of the libraries' modules whose import is complete."""


def watch() -> None:
    """Join in with what is imported already, and watch for the rest."""
    _ready.update(name for name in _WATCHED if name in sys.modules)
    sys.meta_path.insert(0, _Watcher())
    join_in()


def join_in() -> None:
    """Import our counterparts of everything that is imported."""
    for name in sorted(_ready):
        # While `config` is being imported it may bring in a library. It calls again when it is done.
        if name in PATCHES or hasattr(import_module(".config", __package__), "TernaryConfig"):
            import_module(f".{_WATCHED[name]}", __package__)


class _Watcher(MetaPathFinder):
    """Finds those modules as usual, and has `join_in` called after their import."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in _WATCHED:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.loader is None:
            return spec
        run_module = spec.loader.exec_module

        def run_then_join_in(module: ModuleType) -> None:
            run_module(module)
            _ready.add(fullname)
            join_in()

        setattr(spec.loader, "exec_module", run_then_join_in)  # noqa: B010 - mypy refuses the assignment
        return spec
