"""Triton's interpreter, which runs kernels on the CPU in numpy (TRITON_INTERPRET=1)."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import triton.language as tl
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle


def mend_bfloat16() -> None:
    """Make the interpreter compute with bfloat16 as devices do.

    It keeps such numbers as uint16. Up to Triton 3.7 at least its dot multiplies those integers, and
    its cast from float32 truncates. Here dot widens to float32, which is exact, and so are the
    products; the cast rounds to nearest even.
    """
    dot, cast = InterpreterBuilder.create_dot, InterpreterBuilder.cast_impl
    if getattr(dot, "mended", False):
        return

    def create_dot(self: Any, a: Any, b: Any, d: Any, *precision: Any) -> Any:
        return dot(self, _widened(a), _widened(b), d, *precision)

    def cast_impl(self: Any, src: Any, dst_type: Any) -> Any:
        if src.dtype.scalar == tl.float32 and dst_type.scalar == tl.bfloat16:
            return TensorHandle(src.data.astype(ml_dtypes.bfloat16).view(np.uint16), tl.bfloat16)
        if src.dtype.scalar == tl.bfloat16 and dst_type.scalar == tl.float32:
            return _widened(src)
        return cast(self, src, dst_type)

    create_dot.mended = True  # type: ignore[attr-defined]
    InterpreterBuilder.create_dot, InterpreterBuilder.cast_impl = create_dot, cast_impl


def _widened(handle: Any) -> Any:
    if handle.dtype.scalar != tl.bfloat16:
        return handle
    return TensorHandle((handle.data.astype(np.uint32) << 16).view(np.float32), tl.float32)
