"""Cases about values at the edges of float arithmetic (SPEC S-4.6), and far into large files."""

from __future__ import annotations

import json
import struct
from typing import Any

from ternfmt_conformance.files.decode import Decoder

from .collect import Collector, Recipe, slug
from .expect import dequantized, description, sha256
from .logical import Logical, Ternary, random_ternary

TINY = 2.0**-24

ARITHMETIC = {
    # (1 + 2^-24) + 2^-24 is 1 in F32; 1 + (2^-24 + 2^-24) is not.
    "planes are added from the first": Ternary((1, 4), [([1, -1, 1, 1], [s]) for s in (1.0, TINY, TINY)], "F32"),
    "planes of four": Ternary((1, 3), [([1, -1, 0], [s]) for s in (TINY, 1.0, TINY, TINY)], "F32"),
    "negative zeros": Ternary((2, 3), [([-1, 0, 1, -1, 0, 1], [0.0, 1.0])]),
    "the sum starts with the first plane": Ternary((1, 4), [([-1, -1, 1, 0], [0.0]), ([-1, 1, -1, -1], [0.0])]),
    # 1 + (2^-24 + 2^-24), not (1 + 2^-24) + 2^-24.
    "low-rank products are summed by themselves": Ternary(
        (1, 2), [([1, -1], [1.0])], "F32", None, ([TINY, TINY, TINY, -TINY], [1.0, 1.0]), "F32"
    ),
    "low-rank products are added in order of r": Ternary(
        (1, 3), [([0, 1, -1], [1.0])], "F32", None, ([1.0, 1.0, 1.0, TINY, TINY, 0.0, TINY, TINY, TINY], [1.0] * 3), "F32"
    ),
    # (1 + 2^-12)^2 rounds to 1 + 2^-11, so that the sum is 0; fused it is 2^-24.
    "products are rounded before they are added": Ternary(
        (1, 2), [([0, 1], [1.0])], "F32", None, ([1 + 2.0**-12] * 2 + [1 + 2.0**-11] * 2, [1 + 2.0**-12, -1.0]), "F32"
    ),
    "the low-rank sum starts with the first product": Ternary(
        (1, 3), [([-1, 1, 0], [0.0])], "F16", None, ([0.0, 0.0, 1.0], [-1.0])
    ),
    # 1 + 2^-8 + 2^-30 and 1 + 2^-11 + 2^-30: ties in the target once they are F32, not before.
    "rounded to F32 before the target": Ternary(
        (2, 2), [([1, -1, 1, -1], [1.0, 1.0]), ([1, -1, 1, -1], [2.0**-8, 2.0**-11]), ([1, -1, 1, -1], [2.0**-30] * 2)],
        "F32",
    ),
    # In BF16 or F16 each term by itself would be rounded down.
    "sums are rounded, not terms": Ternary(
        (2, 2), [([1, -1] * 2, [1 + 3 * 2.0**-10, 1 + 3 * 2.0**-13]), ([1, -1] * 2, [3 * 2.0**-10, 3 * 2.0**-13])], "F32"
    ),
    "ties to even": Ternary(
        (6, 1), [([1, -1] * 3, [1 + 2.0**-8, 1 + 3 * 2.0**-8, 1 + 2.0**-11, 1 + 3 * 2.0**-11, 1 + 2.0**-8 + 2.0**-20,
                                 1 + 2.0**-11 + 2.0**-20])], "F32",
    ),
    "overflow of F16": Ternary((4, 2), [([1, -1] * 4, [65519.0, 65520.0, 65504.0, 1e10])], "F32"),
    "overflow of BF16": Ternary((3, 2), [([1, -1] * 3, [3.4028234663852886e38, 3.39e38, 3.3895313892515355e38])], "F32"),
    "overflow of F32": Ternary((1, 3), [([1, -1, 1], [3e38]), ([1, -1, 0], [3e38])], "F32"),
    "subnormal numbers of F16": Ternary(
        (6, 1), [([1, -1] * 3, [2.0**-24, 2.0**-25, 1.5 * 2.0**-25, 2.0**-26, 1.5 * 2.0**-24, 2.0**-14 - 2.0**-26])], "F32"
    ),
    "subnormal numbers of F32 and BF16": Ternary(
        (6, 1), [([1, -1] * 3, [2.0**-149, 2.0**-127, 2.0**-126 - 2.0**-149, 2.0**-134, 1.5 * 2.0**-133, 2.0**-133])], "F32"
    ),
    "subnormal scales F16": Ternary((3, 2), [([1, -1] * 3, [2.0**-24, 3 * 2.0**-24, 2.0**-14 - 2.0**-24])]),
    "subnormal scales BF16": Ternary((3, 2), [([1, -1] * 3, [2.0**-133, 3 * 2.0**-133, 2.0**-126 - 2.0**-133])], "BF16"),
    "a scale for every row": random_ternary(1, (9, 7), dtype="BF16"),
    "a scale for every group": random_ternary(2, (5, 77), group_size=16),
    "groups of 32, the last of one column": random_ternary(3, (3, 65), group_size=32, dtype="F32"),
    "groups over flattened dimensions": random_ternary(4, (3, 4, 3, 3), group_size=16),
    "groups of two planes": random_ternary(5, (4, 40), planes=2, group_size=16, dtype="BF16"),
    "four planes with a low-rank term": random_ternary(6, (4, 21), planes=4, rank=3, factor_dtype="BF16"),
    "everything": random_ternary(7, (3, 7, 5), 3, 16, 2, "F32", "F16"),
}  # fmt: skip


def add_values(corpus: Collector) -> None:
    """Dequantised values, bit by bit."""
    for title, tensor in ARITHMETIC.items():
        name = slug(title)
        data = Logical({"w": tensor}).raw().build()
        place = corpus.place(f"valid/arithmetic/{name}.safetensors", data)
        decoder = Decoder(data)
        rules = {"group-scale": "S-5.2", "planes": "S-5.3", "low-rank": "S-5.4"}
        corpus.case(f"describe/{name}", f"describe: {title}", "R2", ["S-3.4", *(rules[f] for f in tensor.features)],
                    "describe", {"tensors": description(data)}, features=tensor.features, **place)  # fmt: skip
        for dtype in ("F32", "F16", "BF16"):
            corpus.case(f"dequantize/{name}-{dtype.lower()}", f"dequantize to {dtype}: {title}", "R2",
                        ["S-4.6", "S-4.3", *(rules[f] for f in tensor.features)], "dequantize",
                        {"sha256": sha256(dequantized(decoder, "w", dtype))}, features=tensor.features,
                        tensor="w", dtype=dtype, **place)  # fmt: skip
    _add_far(corpus)


# Large files, as recipes ---------------------------------------------------------------------------

FAR_ROWS, FAR_COLUMNS = 513, 1 << 22
"""2^31 + 2^22 codes, in 513 MiB."""


def _add_far(corpus: Collector) -> None:
    """Codes past the 2^31st."""
    row = bytes([0x71]) + bytes(FAR_COLUMNS // 4 - 2) + bytes([0xC0])
    codes = bytes([1, 0, 255, 1]) + bytes(FAR_COLUMNS - 5) + bytes([255])
    last = {"plane": 1, "tensor": "w", "rows": [str(FAR_ROWS - 1), str(FAR_ROWS)]}
    corpus.case("unpack/past-2-31-codes", "unpack a row past the 2^31st code", "R2", ["S-3.3", "S-3.4"], "unpack",
                {"sha256": sha256(codes)}, path="far.safetensors", recipe=_far(row[:1], row[-1:]), **last)  # fmt: skip
    corpus.case("code/past-2-31-codes", "forbidden code in the very last lane, past the 2^31st code", "R2", ["S-3.2"],
                "validate", {"class": "CODE"}, path="far.safetensors", recipe=_far(row[:1], b"\x80"))  # fmt: skip
    corpus.case("valid/largest-k", "K = 2^24 - 1", "R2", ["S-2.4", "S-3.5"], "validate", {"ok": True},
                path="wide.safetensors", recipe=_wide(b"\x31"))  # fmt: skip
    corpus.case("padding/largest-k", "K = 2^24 - 1, padding in the last byte", "R2", ["S-3.5"], "validate",
                {"class": "PADDING"}, path="wide.safetensors", recipe=_wide(b"\xf1"))  # fmt: skip


def _far(first: bytes, last: bytes) -> Recipe:
    size = FAR_ROWS * FAR_COLUMNS // 4
    return {"far.safetensors": _large([FAR_ROWS, FAR_COLUMNS], size, {size - FAR_COLUMNS // 4: first, size - 1: last})}


def _wide(last: bytes) -> Recipe:
    return {"wide.safetensors": _large([1, 2**24 - 1], 2**22, {2**22 - 1: last})}


def _large(shape: list[int], size: int, bytes_at: dict[int, bytes]) -> dict[str, Any]:
    """One ternary tensor of zeros with scales 1.0 but for some bytes of its codes."""
    document = {"version": "1.0", "required": [], "tensors": {"w": {"shape": shape, "encoding": "int2"}}}
    scales = 2 * shape[0]
    value = {
        "__metadata__": {"format": "pt", "ternfmt": json.dumps(document)},
        "w_scale": {"dtype": "F16", "shape": shape[:1], "data_offsets": [0, scales]},
        "w": {"dtype": "U8", "shape": [shape[0], -(-shape[1] // 4)], "data_offsets": [scales, scales + size]},
    }
    text = json.dumps(value).encode()
    text += b" " * (-(8 + len(text)) % 64)
    start = 8 + len(text)
    writes: list[dict[str, str]] = [
        {"offset": "0", "hex": (struct.pack("<Q", len(text)) + text).hex()},
        {"offset": str(start), "hex": "003c", "repeat": str(shape[0])},
        *({"offset": str(start + scales + at), "hex": data.hex()} for at, data in sorted(bytes_at.items())),
    ]
    return {"size": str(start + scales + size), "writes": writes}
