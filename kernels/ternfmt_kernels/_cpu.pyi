"""The native kernels (kernels/cpu/module.c), for cpu_backend/launch.py and benchmarks only."""

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
def probe(isa: str, kind: str, steps: int, /) -> float: ...
def read(isa: str, buffer: bytes | bytearray | memoryview, /) -> None: ...
def built() -> tuple[tuple[str, str], ...]: ...
def available() -> tuple[tuple[str, str], ...]: ...
