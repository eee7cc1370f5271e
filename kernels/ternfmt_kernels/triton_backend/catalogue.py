"""Every kernel and shipped configuration, as `triton.compile` wants them: what can be checked without a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from . import activations, configs, dense, gemm
from .configs import ARCHS, Config, Kind

FLUX = {"n": 3072, "k": 3072, "m": 4608}
"""The shape whose divisibility the shipped code is specialised to, as the launcher would: all FLUX shapes."""


@dataclass(frozen=True)
class Shipped:
    """One specialisation of one kernel for one architecture.

    Attributes:
        name: kernel, kind, tile and features.
        fn: the JITFunction.
        signature: argument -> Triton type.
        constants: value of each constexpr.
        divisible: arguments that are multiples of 16.
        ones: arguments that are 1, which the launcher makes constants.
        tile: rows of x, rows of the weight and columns (codes) of a tile, for `gemm`.
        config: the same as a line of the table.
        act: type of the activations that are multiplied.
        planes: ternary planes.
    """

    name: str
    fn: Any
    signature: dict[str, str]
    constants: dict[str, Any]
    divisible: tuple[str, ...]
    num_warps: int
    num_stages: int
    tile: tuple[int, int, int] | None = None
    config: Config | None = None
    act: str | None = None
    planes: int = 1
    ones: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)


def shipped(target: str) -> Iterator[Shipped]:
    """All of ``target``, "sm_80" for example; the configurations of BUCKETS with the features that cost registers.

    Raises:
        ValueError: the target is not one of ARCHS.
    """
    if target not in ARCHS:
        raise ValueError(f"target: expected one of {', '.join(ARCHS)}, got {target!r}")
    acts: tuple[tuple[Kind, str], ...] = (("w2a16", "bf16"), ("w2a16", "fp16"), ("w2a8", "i8"))
    for kind, act in acts:
        for i, config in enumerate(configs.rows(target, kind)):
            yield _gemm(target, kind, act, config)
            if i == 0:
                yield _gemm(target, kind, act, configs.split(target, kind, config, 1, FLUX["n"], FLUX["k"]))
            if act != "fp16":
                yield _gemm(target, kind, act, config, planes=2)
                yield _gemm(target, kind, act, config, group_size=256)
                yield _gemm(target, kind, act, config, rank_block=configs.RANK_BLOCK)
    yield _reduce(target)
    yield from _others(target)


def _gemm(
    target: str,
    kind: Kind,
    act: str,
    config: Config,
    *,
    planes: int = 1,
    group_size: int = 0,
    rank_block: int = 0,
) -> Shipped:
    arch = ARCHS[target]
    config = configs.widened(config, heavy=planes > 1 or group_size > 0 or rank_block > 0)
    int8 = kind == "w2a8"
    codes = "*u8" if int8 else "*u16"
    out = "*fp32" if config.split > 1 else "*fp16" if act == "fp16" else "*bf16"
    signature = {"x": f"*{act}", "x_scale": "*fp32"}
    signature |= {f"codes{p}": codes for p in range(4)} | {f"scale{p}": "*fp16" for p in range(4)}
    signature |= {"bias": "*bf16", "up": "*bf16", "down_x": "*fp32", "out": out}
    signature |= dict.fromkeys(("m", "n", "width", "words", "groups", "rank"), "i32")
    last = config.split == 1
    constants = {
        "PLANES": planes,
        "GROUP": group_size // (4 if int8 else 8),
        "EVEN": True,
        "HAS_BIAS": last,
        "RANK_BLOCK": rank_block if last else 0,
        "PRECISION": arch.precision,
        "BM": config.bm,
        "BN": config.bn,
        "BW": config.bw,
        "SPLIT": config.split,
        "BAND": config.band,
        "ASM": arch.asm,
    }
    divisible = [a for a, t in signature.items() if t.startswith("*")]
    divisible += ["n", "width", "words"] + ["rank"] * bool(rank_block)
    features = [f"planes={planes}"] * (planes > 1) + [f"group={group_size}"] * bool(group_size)
    features += ["low-rank"] * bool(rank_block) + [f"split={config.split}"] * (not last)
    tile = (config.bm, config.bn, config.bw * (4 if int8 else 8))
    return Shipped(
        name=" ".join(["gemm", kind, act, "x".join(map(str, tile)), *features]),
        fn=gemm.gemm,
        signature=signature | dict.fromkeys(constants, "constexpr"),
        constants=constants,
        divisible=tuple(divisible),
        num_warps=config.warps,
        num_stages=config.stages,
        tile=tile,
        config=config,
        act=act,
        planes=planes,
        ones=() if group_size else ("groups",),
    )


def _reduce(target: str) -> Shipped:
    signature = {"partial": "*fp32", "bias": "*bf16", "up": "*bf16", "down_x": "*fp32", "out": "*bf16"}
    signature |= dict.fromkeys(("m", "n", "rank"), "i32")
    constants = {"HAS_BIAS": True, "RANK_BLOCK": configs.RANK_BLOCK, "PRECISION": ARCHS[target].precision}
    constants |= {"BM": 16, "BN": 64, "SPLIT": 4}
    return _plain("reduce split=4 low-rank", gemm.reduce, signature, constants, ("n", "rank"))


def _others(target: str) -> Iterator[Shipped]:
    strided = dict.fromkeys(("k", "stride_m", "stride_k", "words"), "i32")
    divisible = ("k", "stride_m", "words")
    for act in ("bf16", "fp16"):
        planes = {"x": f"*{act}", "out": f"*{act}"} | strided
        yield _plain(f"arrange {act}", activations.arrange, planes, {"LANES": 8, "BW": 64}, divisible, ("stride_k",))
        int8 = {"x": f"*{act}", "out": "*i8", "scale": "*fp32"} | strided
        exact = {"enable_fp_fusion": False}  # a fused multiply-add would round differently
        yield _plain(f"quantise {act}", activations.quantise, int8, {"BW": 256}, divisible, ("stride_k",), exact)
    for out in ("bf16", "fp16", "fp32"):
        signature = {f"codes{p}": "*u8" for p in range(4)} | {f"scale{p}": "*fp16" for p in range(4)}
        signature["out"] = f"*{out}"
        signature |= dict.fromkeys(("n", "k", "width", "groups", "group_size"), "i32")
        tile = {"PLANES": 1, "BN": 8, "BK": 512}
        yield _plain(
            f"dequantise {out}", dense.dequantise, signature, tile, ("n", "k", "width", "group_size"), ("groups",)
        )
    signature = {"x": "*bf16", "down": "*bf16", "out": "*fp32"}
    signature |= dict.fromkeys(("m", "k", "rank", "stride_m", "stride_k"), "i32")
    constants = {"PRECISION": ARCHS[target].precision, "BM": 32, "BR": 32, "BK": 128}
    yield _plain("project bf16", dense.project, signature, constants, ("k", "rank", "stride_m"), ("stride_k",))


def _plain(
    name: str,
    fn: Any,
    signature: dict[str, str],
    constants: dict[str, Any],
    divisible: tuple[str, ...],
    ones: tuple[str, ...] = (),
    options: dict[str, Any] | None = None,
) -> Shipped:
    pointers = tuple(a for a, t in signature.items() if t.startswith("*"))
    types = signature | dict.fromkeys(constants, "constexpr")
    return Shipped(name, fn, types, constants, pointers + divisible, 4, 3, ones=ones, options=options or {})
