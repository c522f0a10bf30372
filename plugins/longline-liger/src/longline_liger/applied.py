"""Applies kernels to one model, one after the other, and looks at the model itself for what each of them changed.

Liger's function for a model type takes a kernel that it cannot apply without a word, or with a line in a log. So nothing that it
says is believed: a kernel is applied when a module's forward is Liger's now, or reads a function that is Liger's now.
"""

from __future__ import annotations

import inspect
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import CodeType
from typing import TYPE_CHECKING, Any

from longline_liger.config import GLU, LOSSES
from longline_liger.patches import Entries, ProcessPatches, Replaced, is_ligers

if TYPE_CHECKING:
    from longline_liger.dispatch import Dispatch


@dataclass(slots=True)
class Applied:
    """One kernel on one model: the modules that run it, in `places` counted as `5 of 5 LlamaRMSNorm`, or why there are none."""

    kernel: str
    modules: list[Any] = field(default_factory=list)
    places: list[str] = field(default_factory=list)
    why: str = ""
    failed: bool = False
    """Whether Liger raised, or put the kernel where it computes something else: then even its advice is an error."""

    @property
    def done(self) -> bool:
        """Whether the model runs it."""
        return bool(self.places)


def apply(model: Any, kernels: Sequence[str], dispatch: Dispatch, patches: ProcessPatches) -> list[Applied]:
    """Apply each kernel to the model, and tell what became of it; what is replaced for the process is in `patches`."""
    patches.undo()  # those of another model of this run: what follows shall find its own
    with _warnings():
        dispatch.call(model)  # what it imports is not to be taken for what it changes
    return [_one(model, kernel, dispatch, patches) for kernel in kernels]


def _one(model: Any, kernel: str, dispatch: Dispatch, patches: ProcessPatches) -> Applied:
    before = {module: _forward(module) for module in model.modules()}
    patches.look()
    with _warnings() as said:
        try:
            dispatch.call(model, kernel)
        except Exception as error:  # whatever Liger raises is why the kernel is not applied
            return Applied(kernel, why=f"liger raised {type(error).__name__}: {' '.join(str(error).split())}", failed=True)
        finally:
            replaced = patches.found()
    used = [item for item in replaced if _is_used(item, model)]
    # The rest, such as classes of layers, only matters for models that are built later: this run's reference gets its own.
    patches.put_back([item for item in replaced if item not in used])
    modules = [module for module in model.modules() if _changed(module, before) or any(_reads(module, item) for item in used)]
    result = Applied(kernel, modules, _places(model, modules))
    other = [module for module in modules if _other_activation(kernel, module)]
    if other:
        result.why, result.failed = f"{type(other[0]).__name__} has another activation than the kernel computes", True
        result.places = []
    if any(_loss(item) for item in used):
        result.places.append("loss_function")
    elif kernel in LOSSES and modules and model not in modules:
        result.why = f"liger replaced the forward of {type(modules[0]).__name__}, and this model takes the loss outside of it"
        result.places = []
    if not result.done:
        result.modules = []
        patches.put_back([item for item in patches.replaced if item in used])
        result.why = result.why or " ".join(said) or _silent(replaced)
    return result


def _is_used(item: Replaced, model: Any) -> bool:
    """Whether a replacement is one that this model's own modules look up, or its loss."""
    if isinstance(item.holder, Entries):
        return False
    if _loss(item):
        return _common_loss(model)
    if isinstance(item.holder, type):
        return any(isinstance(module, item.holder) for module in model.modules())
    return any(_reads(module, item) for module in model.modules())


def _silent(replaced: list[Replaced]) -> str:
    names = ", ".join(item.path for item in replaced)
    return f"liger replaced {names}, not used by this model" if names else "liger takes it and changes nothing of this model"


# --- what a model runs --------------------------------------------------------------------------------------------------------


def _forward(module: Any) -> Any:
    """The function that a module runs: of the instance, or of its class."""
    return getattr(module.forward, "__func__", module.forward)


def _changed(module: Any, before: dict[Any, Any]) -> bool:
    function = _forward(module)
    return is_ligers(function) and before.get(module) is not function


def _reads(module: Any, item: Replaced) -> bool:
    """Whether the module's forward looks up the replaced name in the module where it was replaced."""
    function = inspect.unwrap(_forward(module))
    code = getattr(function, "__code__", None)
    return code is not None and function.__globals__ is vars(item.holder) and item.name in _names(code)


def _names(code: CodeType) -> set[str]:
    inner = [_names(constant) for constant in code.co_consts if isinstance(constant, CodeType)]
    return set(code.co_names).union(*inner)


def _loss(item: Replaced) -> bool:
    return item.name == "cross_entropy" and item.holder.__name__ == "torch.nn.functional"


def _common_loss(model: Any) -> bool:
    """Whether the model's loss is one of transformers' own, which all go through `nn.functional.cross_entropy`."""
    return str(getattr(getattr(model, "loss_function", None), "__module__", "")) == "transformers.loss.loss_utils"


def _places(model: Any, modules: list[Any]) -> list[str]:
    """`5 of 5 LlamaRMSNorm`, by class."""
    there = Counter(type(module).__name__ for module in model.modules())
    return [f"{count} of {there[name]} {name}" for name, count in Counter(type(module).__name__ for module in modules).items()]


def _other_activation(kernel: str, module: Any) -> bool:
    """Whether a gated MLP has another activation than the kernel, which is put on whatever the model's config says."""
    import torch
    from torch.nn import functional

    own = getattr(module, "act_fn", getattr(module, "activation_fn", None))
    if kernel not in GLU or not callable(own):
        return False
    points = torch.linspace(-4, 4, 33)
    expected = functional.silu(points) if kernel == "swiglu" else functional.gelu(points, approximate="tanh")
    return not torch.allclose(own(points), expected, atol=1e-5)


def lost(model: Any, result: Applied) -> list[str]:
    """The classes of modules that ran the kernel when it was applied, and do not any more."""
    inside = set(model.modules())
    gone = [module for module in result.modules if module not in inside or not _still(module)]
    return sorted({type(module).__name__ for module in gone})


def _still(module: Any) -> bool:
    function = _forward(module)
    if is_ligers(function):
        return True
    inner = inspect.unwrap(function)
    return any(is_ligers(inner.__globals__.get(name)) for name in _names(inner.__code__))


# --- what Liger says ----------------------------------------------------------------------------------------------------------


class _Listener(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(" ".join(record.getMessage().split()))


@contextmanager
def _warnings() -> Iterator[list[str]]:
    """What Liger warns of meanwhile, each line once; nothing of it is printed."""
    logger, listener = logging.getLogger("liger_kernel"), _Listener()
    propagate = logger.propagate
    logger.addHandler(listener)
    logger.propagate = False
    try:
        yield listener.said
    finally:
        logger.removeHandler(listener)
        logger.propagate = propagate
