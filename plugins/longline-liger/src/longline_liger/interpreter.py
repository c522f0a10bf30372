"""Triton's interpreter (TRITON_INTERPRET=1) runs Liger's kernels on a CPU, slowly: for tests, and to try a config without a GPU.

Two things that Triton's compiler does are missing in the interpreter of Triton 3.7: floats among a kernel's arguments become
float32 scalars, and the functions of libdevice have a body. Both are supplied while a run lasts; the kernels stay as they are.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from longline_liger import upstream


def wanted() -> bool:
    """Whether the environment asks for the interpreter."""
    return os.environ.get("TRITON_INTERPRET") == "1"


@contextmanager
def complete() -> Iterator[None]:
    """While it lasts, the interpreter has what Liger's kernels need."""
    with ExitStack() as stack:
        stack.enter_context(upstream.float_scalars())
        for module in upstream.operations():
            stack.enter_context(upstream.device_functions(module))
        yield
