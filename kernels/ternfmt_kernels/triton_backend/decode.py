"""A tile of packed codes -> the operands of 4 or 8 dot products.

A two's-complement 2-bit code in the top two bits of a wider lane is already a number: 01 and 11 there
are 2.0 and -2.0 as float16 and as bfloat16, 64 and -64 as int8, and 00 is 0. So decoding is a shift
and an AND; the factor is a power of two and leaves with the scale, in the epilogue.

Codes are read as the numbers' own width, if the rows allow: a 16-bit word holds 8 codes, whose lane j
is column ``8w + j``; a byte holds 4. A 32-bit register then holds the codes of two 16-bit (or four
8-bit) numbers of the same lane in place, and decodes them together. What a shift carries over from
one number to the next falls below the mask. Triton has no such packed shift, so it is spelled in PTX;
`plain operations` do the same for other targets and for the interpreter, and give the same bits.
"""

from __future__ import annotations

import triton
import triton.language as tl

ASM_WORDS = tl.constexpr(
    """
{
.reg .b32 t;
shl.b32 t, $8, 14;
and.b32 $0, t, 0xC000C000;
shl.b32 t, $8, 12;
and.b32 $1, t, 0xC000C000;
shl.b32 t, $8, 10;
and.b32 $2, t, 0xC000C000;
shl.b32 t, $8, 8;
and.b32 $3, t, 0xC000C000;
shl.b32 t, $8, 6;
and.b32 $4, t, 0xC000C000;
shl.b32 t, $8, 4;
and.b32 $5, t, 0xC000C000;
shl.b32 t, $8, 2;
and.b32 $6, t, 0xC000C000;
and.b32 $7, $8, 0xC000C000;
}
"""
)
"""Two words $8 -> two float16 or bfloat16 of lane j, $j."""

ASM_BYTES = tl.constexpr(
    """
{
.reg .b32 t;
shl.b32 t, $4, 6;
and.b32 $0, t, 0xC0C0C0C0;
shl.b32 t, $4, 4;
and.b32 $1, t, 0xC0C0C0C0;
shl.b32 t, $4, 2;
and.b32 $2, t, 0xC0C0C0C0;
and.b32 $3, $4, 0xC0C0C0C0;
}
"""
)
"""Four bytes $4 -> four int8 of lane j, $j."""


@triton.jit
def decode(codes, dtype: tl.constexpr, ASM: tl.constexpr):
    """uint16 or uint8 tile -> a tuple of 8 or 4 tiles of ``dtype`` (float16, bfloat16, int8).

    Numbers are 2, or as int8 64, times the code. int8 takes bytes only.
    """
    if codes.dtype == tl.uint16:
        # Twice the same: Triton takes the types of results literally, not from a constexpr.
        if ASM and dtype == tl.float16:
            tiles = tl.inline_asm_elementwise(
                ASM_WORDS,
                "=r,=r,=r,=r,=r,=r,=r,=r,r",
                [codes],
                (
                    tl.float16,
                    tl.float16,
                    tl.float16,
                    tl.float16,
                    tl.float16,
                    tl.float16,
                    tl.float16,
                    tl.float16,
                ),
                is_pure=True,
                pack=2,
            )
        elif ASM:
            tiles = tl.inline_asm_elementwise(
                ASM_WORDS,
                "=r,=r,=r,=r,=r,=r,=r,=r,r",
                [codes],
                (
                    tl.bfloat16,
                    tl.bfloat16,
                    tl.bfloat16,
                    tl.bfloat16,
                    tl.bfloat16,
                    tl.bfloat16,
                    tl.bfloat16,
                    tl.bfloat16,
                ),
                is_pure=True,
                pack=2,
            )
        else:
            tiles = (
                ((codes << 14) & 0xC000).to(dtype, bitcast=True),
                ((codes << 12) & 0xC000).to(dtype, bitcast=True),
                ((codes << 10) & 0xC000).to(dtype, bitcast=True),
                ((codes << 8) & 0xC000).to(dtype, bitcast=True),
                ((codes << 6) & 0xC000).to(dtype, bitcast=True),
                ((codes << 4) & 0xC000).to(dtype, bitcast=True),
                ((codes << 2) & 0xC000).to(dtype, bitcast=True),
                (codes & 0xC000).to(dtype, bitcast=True),
            )
    elif dtype == tl.int8:
        if ASM:
            tiles = tl.inline_asm_elementwise(
                ASM_BYTES, "=r,=r,=r,=r,r", [codes], (tl.int8, tl.int8, tl.int8, tl.int8), is_pure=True, pack=4
            )
        else:
            tiles = (
                ((codes << 6) & 0xC0).to(tl.int8, bitcast=True),
                ((codes << 4) & 0xC0).to(tl.int8, bitcast=True),
                ((codes << 2) & 0xC0).to(tl.int8, bitcast=True),
                (codes & 0xC0).to(tl.int8, bitcast=True),
            )
    else:
        wide = codes.to(tl.uint16)
        tiles = (
            ((wide << 14) & 0xC000).to(dtype, bitcast=True),
            ((wide << 12) & 0xC000).to(dtype, bitcast=True),
            ((wide << 10) & 0xC000).to(dtype, bitcast=True),
            ((wide << 8) & 0xC000).to(dtype, bitcast=True),
        )
    return tiles
