"""All that this plugin needs of transformers beyond its documentation; no other file touches such a name.

Importing this module imports neither it nor torch.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import MethodType
from typing import Any

from longline.upstream import Assumption, every

TESTED: dict[str, str] = {"transformers": ">=5.23,<5.25"}
"""The versions between which the tests ran."""
EXPERTS = "experts"
"""What a mixture of experts calls the module that holds them."""
ROUTERS = ("gate", "router")
"""What it calls the router beside them."""
CALL = re.compile(r"self\.experts\(\s*\w+,\s*\w+,\s*\w+,?\s*\)")
"""How the source of a model calls its experts: with hidden states, index and weights."""
TYPE = re.compile(r'^    model_type(?:: str)? = "([^"]+)"', re.MULTILINE)
COUNTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts", "num_routed_experts")
"""Fields of a config that count the experts of a layer."""
PICKED = ("num_experts_per_tok", "num_experts_per_token", "top_k_experts", "moe_topk", "moe_k", "moe_top_k")
"""Fields of a config that say how many of them a token goes to."""
COPYING = frozenset({"batched_mm"})
"""Implementations of experts that copy an expert's weights for each token: fine for a few tokens, not for all with all."""


@cache
def folders() -> dict[str, bool]:
    """Every model type of the installed transformers, and whether its source calls experts so; nothing is imported."""
    found: dict[str, bool] = {}
    for folder in _models():
        has = any(CALL.search(path.read_text(encoding="utf-8")) for path in folder.glob("modeling_*.py"))
        for path in folder.glob("configuration_*.py"):
            for name in TYPE.findall(path.read_text(encoding="utf-8")):
                found[name] = found.get(name, False) or has
    return found


def mixtures() -> list[str]:
    """The model types whose source calls experts so, towers for pictures and the like among them."""
    return sorted(name for name, has in folders().items() if has)


def _models() -> Iterator[Path]:
    spec = find_spec("transformers")  # finds the folder, and runs nothing in it
    for root in (spec.submodule_search_locations or ()) if spec else ():
        yield from sorted(path for path in (Path(root) / "models").glob("*") if path.is_dir())


def implementation(experts: Any) -> str | None:
    """Which implementation a module of experts runs: eager, grouped_mm, batched_mm ...; None where it has only its own."""
    return getattr(getattr(experts, "config", None), "_experts_implementation", None)


def of_all(experts: Any) -> Callable[..., Any]:
    """How a module of experts is run for all tokens with all experts: as it is, or by its class's own loop instead of copies."""
    if implementation(experts) in COPYING:
        return MethodType(inspect.unwrap(type(experts).forward), experts)
    forward: Callable[..., Any] = experts.forward
    return forward


@contextmanager
def standing_in(module: Any, forward: Callable[..., Any]) -> Iterator[None]:
    """While it lasts, a module runs another forward, inside all that wraps or hooks it."""
    before = vars(module).get("forward")
    module.forward = forward
    try:
        yield
    finally:
        del module.forward
        if before is not None:
            module.forward = before


def _dispatches() -> bool:
    from transformers.models.mixtral.modeling_mixtral import MixtralExperts

    said = inspect.getsource(inspect.getmodule(use()))  # type: ignore[arg-type]
    own = inspect.unwrap(MixtralExperts.forward)
    return own is not MixtralExperts.forward and "self.config._experts_implementation" in said


def use() -> Callable[..., Any]:
    """The decorator of classes of experts."""
    from transformers.integrations.moe import use_experts_implementation

    decorator: Callable[..., Any] = use_experts_implementation
    return decorator


ASSUMPTIONS: tuple[Assumption, ...] = (
    Assumption(
        "transformers.models",
        "5.23.0",
        "a mixture calls self.experts(hidden, index, weights), each configuration names its model_type, a folder for each model",
        every(
            lambda: {"qwen3_moe", "mixtral", "gpt_oss", "deepseek_v3", "olmoe"} <= set(mixtures()),
            lambda: {"llama", "qwen3", "gemma3_text"} <= {name for name, has in folders().items() if not has},
        ),
    ),
    Assumption(
        "transformers.integrations.moe.use_experts_implementation",
        "5.23.0",
        "it wraps the forward of a class of experts, which config._experts_implementation chooses, and keeps the class's own loop",
        _dispatches,
    ),
)
"""Everything undocumented that is called or read here."""
