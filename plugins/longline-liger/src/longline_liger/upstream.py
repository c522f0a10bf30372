"""All that this plugin needs of liger-kernel and of Triton beyond their documentation; no other file touches such a name.

Importing this module imports neither of them.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pkgutil import resolve_name
from types import ModuleType
from typing import Any

from longline.upstream import Assumption, every, reads

TESTED: dict[str, str] = {"liger-kernel": ">=0.8.5,<0.9", "triton": ">=3.7,<3.8"}
"""The versions between which the tests ran: the same ranges as in the metadata of the distribution."""
PATCHES = "transformers/monkey_patch.py"
"""The file in the package liger_kernel that has a function for each family of models."""
OPERATIONS = "liger_kernel.ops."
"""What the names of the modules with Liger's kernels begin with."""


def functions() -> dict[str, Callable[..., None]]:
    """Liger's function for each model type; raises whatever importing it raises."""
    from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN

    found: dict[str, Callable[..., None]] = MODEL_TYPE_TO_APPLY_LIGER_FN
    return found


def made_for_the_interpreter() -> bool:
    """Whether Liger's kernels were made for Triton's interpreter: that is decided when they are imported."""
    from liger_kernel.ops import rms_norm
    from triton.runtime.interpreter import InterpretedFunction

    return isinstance(rms_norm._rms_norm_forward_kernel, InterpretedFunction)


def operations() -> list[ModuleType]:
    """The modules with Liger's kernels that are imported."""
    return [item for name, item in sys.modules.items() if name.startswith(OPERATIONS)]


@contextmanager
def float_scalars() -> Iterator[None]:
    """While it lasts, Triton's interpreter makes float32 scalars of floats among a kernel's arguments, as its compiler does."""
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
def device_functions(module: ModuleType) -> Iterator[None]:
    """While it lasts, the functions of libdevice that a module of Liger's uses have a body in the interpreter."""
    import triton.language as tl
    from triton.language.extra import libdevice

    known: dict[str, Callable[[Any], Any]] = {
        "rsqrt": lambda x: tl.math.rsqrt(x),
        "tanh": lambda x: 2 * tl.sigmoid(2 * x) - 1,
    }
    stubs = {name: stub for name, stub in vars(module).items() if name in known and stub is getattr(libdevice, name, None)}
    vars(module).update({name: known[name] for name in stubs})
    try:
        yield
    finally:
        vars(module).update(stubs)


def _are_functions_of_models() -> bool:
    """Every function takes the model, and its kernels are those of its parameters that are true or false."""
    llama = inspect.signature(functions()["llama"]).parameters
    kernels = {name for name, item in llama.items() if isinstance(item.default, bool)}
    return {"rope", "rms_norm", "swiglu", "cross_entropy", "fused_linear_cross_entropy"} <= kernels and "model" in llama


ASSUMPTIONS: tuple[Assumption, ...] = (
    Assumption(
        "liger_kernel.transformers.monkey_patch.MODEL_TYPE_TO_APPLY_LIGER_FN",
        "0.8.5",
        f"it has a function for each model type, whose true or false parameters are kernels; they stand in {PATCHES}",
        every(
            _are_functions_of_models,
            lambda: inspect.getfile(functions()["llama"]).replace("\\", "/").endswith(f"liger_kernel/{PATCHES}"),
        ),
    ),
    Assumption(
        "liger_kernel.ops.rms_norm._rms_norm_forward_kernel",
        "0.8.5",
        "it is a kernel of Triton, so of the interpreter's class when TRITON_INTERPRET was set at its import",
        lambda: hasattr(resolve_name("liger_kernel.ops.rms_norm:_rms_norm_forward_kernel"), "__getitem__"),
    ),
    Assumption(
        "triton.runtime.interpreter._implicit_cvt",
        "3.7.1",
        "every argument of a kernel that is no constant passes through this function of the module, and floats stay floats in it",
        every(
            reads("triton.runtime.interpreter:_implicit_cvt", takes=("arg",)),
            lambda: "else _implicit_cvt(arg)" in inspect.getsource(resolve_name("triton.runtime.interpreter:GridExecutor")),
            lambda: resolve_name("triton.runtime.interpreter")._implicit_cvt(0.5) == 0.5,
            reads("triton.runtime.interpreter:TensorHandle.__init__", takes=("data", "dtype")),
        ),
    ),
    Assumption(
        "triton.language.extra.libdevice",
        "3.7.1",
        "its functions have no body; Liger's modules import rsqrt and tanh from it by name",
        every(
            lambda: inspect.getsource(resolve_name("triton.language.extra.libdevice:rsqrt")).rstrip().endswith("..."),
            lambda: callable(resolve_name("triton.language.extra.libdevice:tanh")),
        ),
    ),
)
"""Everything undocumented that is called or replaced here."""
