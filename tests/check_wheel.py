"""Whether the installed ternfmt has its native code, for every instruction set of this kind of processor."""

import platform
from importlib.machinery import PathFinder
from importlib.util import find_spec, module_from_spec

from ternfmt import native

SETS = {
    "x86_64": ["avx512vnni", "avxvnni", "avx2", "scalar"],
    "aarch64": ["neon", "scalar"],
}


def built() -> list[str]:
    """The sets of ternfmt_kernels._cpu, which is loaded without its package: that needs torch."""
    folders = find_spec("ternfmt_kernels").submodule_search_locations
    spec = PathFinder.find_spec("_cpu", folders)
    assert spec is not None, f"ternfmt_kernels._cpu: expected in {folders}, got nothing"
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return [name for name, _ in module.built()]


if __name__ == "__main__":
    assert native.selected() != native.NUMPY, "ternfmt._native: expected native code, got numpy"
    expected, found = SETS[platform.machine()], built()
    assert found == expected, f"instruction sets: expected {expected}, got {found}"
