"""Liger's kernels on a CPU, by Triton's interpreter: `python tests/liger_on_cpu.py KEY=VALUE ...` is `python -m lab.train` with them there.

The interpreter runs a kernel's Python row by row, in float32. It knows neither the functions of CUDA's own library, of which Liger's norm asks
rsqrt, nor a kernel's float arguments as numbers of Triton's.
"""

from __future__ import annotations

import os
from typing import Any

os.environ["TRITON_INTERPRET"] = "1"  # read where a kernel is defined, Triton's own among them

import numpy as np
import triton.language as tl
from triton.language.extra import libdevice
from triton.runtime import interpreter

as_before = interpreter._implicit_cvt


def argument(value: Any) -> Any:
    """A kernel's argument as the interpreter's kernels take it."""
    if isinstance(value, float):
        return tl.tensor(interpreter.TensorHandle(np.array([value], dtype=np.float32), tl.float32), tl.float32)
    return as_before(value)


interpreter._implicit_cvt = argument
libdevice.rsqrt = lambda x: tl.math.rsqrt(x)  # of tl as the interpreter has it while a kernel runs

if __name__ == "__main__":
    from lab import train

    train.main()
