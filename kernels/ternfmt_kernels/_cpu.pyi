"""The native kernels (kernels/cpu/module.c), for cpu_backend/ and benchmarks only."""

from collections.abc import Sequence

from torch import Tensor

def matmul(
    isa: str,
    int8: bool,
    threads: int,
    x: tuple[int, int, str, int, int, int, int],
    weight: tuple[int, int, int, tuple[tuple[int, int], ...], str, tuple[tuple[int, int], ...]],
    bias: tuple[int, int, str] | None,
    low_rank: tuple[int, int, int, int, int, str] | None,
    out: tuple[int, int, str],
    /,
) -> None: ...
def use_tensors(tensor: type, parameter: type, /) -> bool: ...
def linear(
    threads: int,
    x: Tensor,
    codes: Sequence[Tensor],
    scales: Sequence[Tensor],
    k: int,
    group_size: int | None,
    bias: Tensor | None,
    int8: bool,
    /,
) -> Tensor | None: ...
def probe(isa: str, kind: str, steps: int, /) -> float: ...
def read(isa: str, buffer: bytes | bytearray | memoryview, streams: int, /) -> None: ...
def built() -> tuple[tuple[str, str], ...]: ...
def available() -> tuple[tuple[str, str], ...]: ...
