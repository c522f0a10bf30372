"""Liger's own dispatch: which function patches a model type, which kernels it takes, which of them it advises."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from longline import LonglineError
from longline_liger import release, upstream
from longline_liger.config import GLU, LOSSES
from longline_liger.refusals import WRONG

if TYPE_CHECKING:
    from longline_liger.config import Kernels


@dataclass(frozen=True, slots=True)
class Dispatch:
    """The function of one model type, and its kernels with Liger's advice on each."""

    model_type: str
    function: Callable[..., None]
    advice: dict[str, bool]

    def call(self, model: Any, *kernels: str) -> None:
        """Patch the model with some kernels. All others are switched off by name, since most are on by default.

        Without a model and kernels it imports what Liger needs of transformers, and changes nothing.
        """
        self.function(model=model, **{name: name in kernels for name in self.advice})

    def own(self, kernel: str) -> tuple[str, ...]:
        """What a kernel of the options is called here: glu_activation is swiglu or geglu."""
        names = GLU if kernel == "glu_activation" else (kernel,)
        return tuple(name for name in names if name in self.advice)


def find(config: Any) -> Dispatch | None:
    """The dispatch for a model's config, or None when Liger has none for its type."""
    functions = upstream.functions()
    function = functions.get(config.model_type)
    if function is None:
        return None
    return Dispatch(config.model_type, function, dict(_advice(function, config)))


def _advice(function: Callable[..., None], config: Any) -> Iterator[tuple[str, bool]]:
    """The kernels that a function takes, with their defaults; what it hands on to the parts of a model is theirs."""
    parameters = inspect.signature(function).parameters.values()
    if any(item.kind is item.VAR_KEYWORD for item in parameters):
        for part in ("text_config", "vision_config"):
            below = upstream.functions().get(getattr(getattr(config, part, None), "model_type", ""))
            if below is not None:
                yield from ((name, value) for name, value in _advice(below, getattr(config, part)) if name not in LOSSES)
    yield from ((item.name, item.default) for item in parameters if isinstance(item.default, bool))


def require_classes(dispatch: Dispatch) -> None:
    """Raise LonglineError when Liger needs classes for the type that the installed transformers does not have."""
    try:
        dispatch.call(None)
    except ImportError as error:
        raise LonglineError(
            f"liger-kernel {release.installed_version()} does not fit transformers {version('transformers')} for models of type "
            f"{dispatch.model_type!r}: {error.msg.partition(' (')[0]}",
            hint="remove liger from plugins:, or install a release that fits",
        ) from error


def choose(options: Kernels, dispatch: Dispatch, *, losses: bool) -> tuple[str, ...]:
    """The kernels to apply, by the names that the type's function has for them.

    Those asked for by name; without any, Liger's advice less what the options or `refusals` refuse and, when `losses` is false,
    what replaces the loss.

    Raises:
        LonglineError: the type has no such kernel, or a wrong one.
    """
    wanted = options.wanted()
    absent = [name for name in wanted if not dispatch.own(name)]
    if absent:
        one = len(absent) == 1
        raise LonglineError(
            f"liger-kernel {release.installed_version()} has no {' and no '.join(absent)} for {dispatch.model_type}",
            hint=f"remove {'it' if one else 'them'} from plugins.liger; it has {', '.join(dispatch.advice)}",
        )
    if wanted:
        chosen = tuple(own for name in wanted for own in dispatch.own(name))
        wrong = [f"{name}: {why}" for name in chosen if (why := WRONG.get((dispatch.model_type, name)))]
        if wrong:
            raise LonglineError(
                f"refused for {dispatch.model_type}, {'; '.join(wrong)}", hint="remove what is named here from plugins.liger"
            )
        return chosen
    unwanted = {own for name in options.unwanted() for own in dispatch.own(name)}
    unwanted |= {name for kind, name in WRONG if kind == dispatch.model_type}
    return tuple(name for name, on in dispatch.advice.items() if on and name not in unwanted and (losses or name not in LOSSES))


def refuse_type(config: Any) -> LonglineError:
    """The error for a model type that Liger does not know."""
    return LonglineError(
        f"liger-kernel {release.installed_version()} has no kernels for models of type {config.model_type!r}",
        hint="remove liger from plugins:, or upgrade liger-kernel if a newer release knows the type",
    )
