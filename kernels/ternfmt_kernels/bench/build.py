"""Compile a variant for a target without its GPU, and read the result back."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

from . import amdgcn, sass
from .arch import Arch, Occupancy, occupancy
from .assembly import Listing, Mix, inner_loop, mix
from .variants import Variant

MMA_MACS = 16 * 8 * 16
"""Multiply-accumulates of one m16n8k16, the bf16 instruction of a warp since sm_80: the unit of "per MMA".

Matrix instructions differ in size by up to a thousand times (a warp's 16x8x16 against a block's 128x256x16), so
instructions are counted against the work done, in the smallest of these units, and never against instructions.
"""


TENSOR_COLUMNS = 512
"""Columns of tensor memory of an SM of sm_100 (PTX ISA, "Tensor Memory")."""


@dataclass(frozen=True)
class Reading:
    """What a compiled kernel takes and does.

    Attributes:
        registers: a thread's.
        spills: registers, or instructions that move them, to and from local memory: 0 where all fit.
        stack: bytes of local memory a thread, spills included.
        shared: bytes of shared memory a block.
        occupancy: of the target's core.
        loop: what the inner loop issues in one pass, None where the kernel has no loop.
    """

    registers: int
    spills: int
    stack: int
    shared: int
    occupancy: Occupancy
    loop: Mix | None

    @property
    def other_per_mma(self) -> float | None:
        """Warp-instructions beside the matrix instructions, per MMA_MACS of work in the inner loop."""
        return self.loop.per_macs(self.loop.other, MMA_MACS) if self.loop else None

    @property
    def alu_per_mma(self) -> float | None:
        """Of those, the per-lane arithmetic: what decodes, converts and moves registers."""
        return self.loop.per_macs(self.loop.issued["alu"], MMA_MACS) if self.loop else None


def build(variant: Variant, target: Arch) -> Reading:
    """Compile and read.

    Raises:
        RuntimeError: the compiler refused; says which kernel, configuration and target.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = list(variant.signature)
    source = ASTSource(
        fn=variant.fn,
        signature=dict(variant.signature),
        constexprs={(names.index(name),): value for name, value in variant.constants.items()},
        attrs={(names.index(name),): [["tt.divisibility", 16]] for name in variant.divisible},
    )
    # Triton 3.9 warns where fusion of multiply and add is left to its default, which is to change.
    options = {"enable_fp_fusion": True, **variant.options}
    options.update(num_warps=variant.warps, num_stages=variant.stages)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the compiler's own internals
            compiled = triton.compile(
                source, target=GPUTarget(target.vendor, target.arch, target.lanes), options=options
            )
    except Exception as error:
        raise RuntimeError(f"{variant.name} {variant.config} for {target.name}: {error}") from error
    if target.vendor == "cuda":
        return _read_nvidia(compiled, variant, target)
    return _read_amd(compiled, variant, target)


def _read_nvidia(compiled: object, variant: Variant, target: Arch) -> Reading:
    asm, metadata = compiled.asm, compiled.metadata  # type: ignore[attr-defined]
    if metadata.tmem_size is not None and metadata.tmem_size > TENSOR_COLUMNS:
        # Triton compiles such a kernel to a trap, without a word.
        raise RuntimeError(
            f"{variant.name} {variant.config} for {target.name}: expected at most {TENSOR_COLUMNS} columns of tensor "
            f"memory, got {metadata.tmem_size}"
        )
    text, taken = sass.disassemble(asm["cubin"])
    listing = sass.parse(text, sass.tcgen05_macs(asm["ptx"]))
    return Reading(
        registers=taken.registers,
        spills=sass.spill_instructions(listing),
        stack=taken.stack,
        shared=metadata.shared,
        occupancy=occupancy(target, warps=metadata.num_warps, registers=taken.registers, shared=metadata.shared),
        loop=_mix(listing, metadata.num_warps),
    )


def _read_amd(compiled: object, variant: Variant, target: Arch) -> Reading:
    asm, metadata = compiled.asm, compiled.metadata  # type: ignore[attr-defined]
    taken = amdgcn.resources(asm["amdgcn"])
    return Reading(
        registers=taken.vector,
        spills=taken.spilled,
        stack=taken.scratch,
        shared=metadata.shared,
        occupancy=occupancy(target, warps=metadata.num_warps, registers=taken.vector, shared=metadata.shared),
        loop=_mix(amdgcn.parse(asm["amdgcn"]), metadata.num_warps),
    )


def _mix(listing: Listing, warps: int) -> Mix | None:
    loop = inner_loop(listing, warps)
    return mix(listing, loop, warps) if loop is not None else None
