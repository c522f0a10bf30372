"""Triton's interpreter (TRITON_INTERPRET=1) runs Liger's kernels on a CPU, slowly: for tests, and to try a config without a GPU.

Two things that Triton's compiler does are missing in the interpreter of Triton 3.7: floats among a kernel's arguments become
float32 scalars, and the functions of libdevice have a body. Both are supplied while a run lasts; the kernels stay as they are.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import Any


def wanted() -> bool:
    """Whether the environment asks for the interpreter."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def active() -> bool:
    """Whether Liger's kernels were made for the interpreter: that is decided when they are imported."""
    from liger_kernel.ops import rms_norm
    from triton.runtime.interpreter import InterpretedFunction

    return isinstance(rms_norm._rms_norm_forward_kernel, InterpretedFunction)


@contextmanager
def complete() -> Iterator[None]:
    """While it lasts, the interpreter has what Liger's kernels need."""
    with ExitStack() as stack:
        stack.enter_context(_float_scalars())
        for module in [item for name, item in sys.modules.items() if name.startswith("liger_kernel.ops.")]:
            stack.enter_context(_libdevice(module))
        yield


@contextmanager
def _float_scalars() -> Iterator[None]:
    import numpy as np
    import triton.language as tl
    from triton.runtime import interpreter

    convert = interpreter._implicit_cvt

    def with_floats(argument: Any) -> Any:
        if isinstance(argument, float):
            handle = interpreter.TensorHandle(np.array([argument], dtype=np.float32), tl.float32)
            return tl.tensor(handle, tl.float32)
        return convert(argument)

    interpreter._implicit_cvt = with_floats
    try:
        yield
    finally:
        interpreter._implicit_cvt = convert


@contextmanager
def _libdevice(module: ModuleType) -> Iterator[None]:
    from triton.language.extra import libdevice

    known = _functions()
    stubs = {name: stub for name, stub in vars(module).items() if name in known and stub is getattr(libdevice, name, None)}
    vars(module).update({name: known[name] for name in stubs})
    try:
        yield
    finally:
        vars(module).update(stubs)


def _functions() -> dict[str, Callable[[Any], Any]]:
    """The functions of libdevice that Liger uses, in terms of those that the interpreter has."""
    import triton.language as tl

    return {"rsqrt": lambda x: tl.math.rsqrt(x), "tanh": lambda x: 2 * tl.sigmoid(2 * x) - 1}
