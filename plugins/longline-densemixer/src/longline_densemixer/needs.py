"""What the config of a model tells of its mixtures, and what this plugin cannot do, before anything is loaded. Torch-free."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from longline import Problem
from longline_densemixer import upstream

if TYPE_CHECKING:
    from longline import Config, Plan
    from longline.config.sections import ModelSection

REMOVE = "remove densemixer from plugins:"
ALWAYS_EXPERTS = ("sparse", "moe", "hash_moe")
"""What `mlp_layer_types` of a config calls layers with a mixture."""


@dataclass(frozen=True, slots=True)
class Mixture:
    """What a config tells: the type, and where it says so the experts of a layer, how many a token goes to, the layers with them.

    `kinds` are the rules that the tests found on tiny models of the type. `refusal` says why nothing can be done, or is empty.
    """

    model_type: str
    experts: int | None = None
    picked: int | None = None
    layers: int | None = None
    kinds: tuple[str, ...] = ()
    refusal: str = ""


def problems(config: Config, plan: Plan) -> Iterator[Problem]:
    """What of a config cannot be: a model without a mixture of experts, and what is not shown to be right."""
    mixture = of_section(config.model)
    if mixture and mixture.refusal:
        yield Problem(f"not applied: {mixture.refusal}", path="model.path", hint=f"{REMOVE} it is for mixtures of experts")
    if plan.trainer_args.get("torch_compile"):
        text = "not shown to be right beside trainer.torch_compile: hooks between router and experts break its graphs"
        yield Problem(text, path="trainer.torch_compile", hint=f"remove torch_compile, or {REMOVE}")
    if _stage(plan.trainer_args.get("deepspeed")) == 3:
        text = "not shown to be right beside DeepSpeed ZeRO-3: the backward pass runs experts, whose weights are elsewhere then"
        yield Problem(text, path="trainer.deepspeed", hint=f"take trainer.fsdp: true, or {REMOVE}")


def _stage(deepspeed: Any) -> int | None:
    """The stage of ZeRO that a config of DeepSpeed, or its file, asks for."""
    try:
        found = json.loads(Path(deepspeed).read_text(encoding="utf-8")) if isinstance(deepspeed, (str, Path)) else deepspeed
        stage = found["zero_optimization"]["stage"]
    except (OSError, ValueError, TypeError, KeyError):
        return None  # none, or one that its own reader will refuse
    return stage if isinstance(stage, int) else None


# --- the config of a model --------------------------------------------------------------------------------------------------------


def of_section(section: ModelSection) -> Mixture | None:
    """What the model's config.json tells, with the run's overrides; None where it is not on this machine or cannot be read."""
    path = _file(section)
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path else None
    except (OSError, ValueError):
        return None
    return of_config({**found, **section.overrides}) if isinstance(found, dict) else None


def _file(section: ModelSection) -> Path | None:
    folder = Path(section.path).expanduser()
    if folder.is_dir():
        return folder / "config.json"
    if section.path.endswith(".gguf") or section.path.count("/") > 1 or section.path.startswith((".", "~", "/")):
        return None
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(section.path, "config.json", revision=section.revision)
    return Path(cached) if isinstance(cached, str) else None


def of_config(whole: Mapping[str, Any]) -> Mixture | None:
    """What a config tells; None of a type that the installed transformers does not have."""
    text = whole.get("text_config")
    config = {**whole, **text} if isinstance(text, Mapping) else whole
    names = [name for item in (config, whole) if isinstance(name := item.get("model_type"), str)]
    known = upstream.folders()
    if not names or not any(name in known for name in names):
        return None
    name = names[-1]
    if not any(known.get(item) for item in names):
        return Mixture(name, refusal=f"a model of type {name} is dense: it has no mixture of experts")
    counts = [config[field] for field in upstream.COUNTS if field in config]
    if config.get("enable_moe_block") is False or (counts and not any(counts)):
        return Mixture(name, refusal=f"this model of type {name} is dense: its config has no experts")
    rule = next((found for item in names if (found := _rule(item, config))), {})
    refusal = f"a model of type {name}: {rule['refused']}" if "refused" in rule else ""
    picked = next((value for field in upstream.PICKED if isinstance(value := config.get(field), int)), None)
    experts = next((value for value in counts if isinstance(value, int) and value), None)
    return Mixture(name, experts, picked, _layers(config), tuple(rule.get("kinds", ())), refusal)


def _rule(name: str, config: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the tests found for the variant of the type that the config is of."""
    for variant in measured().get(name, ()):
        if all(config.get(field, value) == value for field, value in variant["when"].items()):
            return variant
    return {}


@cache
def measured() -> dict[str, Sequence[Mapping[str, Any]]]:
    """The rules of routers as the tests found them, by model type, written by tests/matrix.py."""
    found: dict[str, Sequence[Mapping[str, Any]]] = json.loads(
        Path(__file__).with_name("kinds.json").read_text(encoding="utf-8")
    )
    return found


def _layers(config: Mapping[str, Any]) -> int | None:
    """How many layers have a mixture, as far as the fields that say so are known."""
    kinds, count = config.get("mlp_layer_types"), config.get("num_hidden_layers")
    if isinstance(kinds, list):
        return sum(kind in ALWAYS_EXPERTS for kind in kinds)
    if not isinstance(count, int) or any(
        field in config for field in ("expert_layer_period", "moe_layer_freq", "hybrid_override_pattern")
    ):
        return None
    step, dense = config.get("decoder_sparse_step") or 1, config.get("mlp_only_layers") or ()
    first = config.get("first_k_dense_replace") or config.get("num_dense_layers") or config.get("moe_layer_start_index") or 0
    return sum(place >= first and place not in dense and (place + 1) % step == 0 for place in range(count))


def sentences(mixture: Mixture | None) -> Iterator[str]:
    """What will be done, for `longline plan`."""
    layers = f"{mixture.layers} layers" if mixture and mixture.layers else "every layer with a mixture of experts"
    experts = f"all {mixture.experts}" if mixture and mixture.experts else "all"
    yield f"gives the routers of {layers} a gradient from {experts} experts; the forward pass stays as it is"
    if mixture and mixture.experts and mixture.picked:
        times = 1 + (mixture.experts - mixture.picked) / (3 * mixture.picked)
        yield (
            f"the backward pass runs the {mixture.experts - mixture.picked} experts that a token did not go to as well: "
            f"about {times:.1f} times the arithmetic of the experts"
        )
    if mixture and mixture.kinds:
        kinds = " and ".join(mixture.kinds)
        yield f"routers of type {mixture.model_type} follow {kinds}, as the tests found; the run looks at them again"
    else:
        yield "which rule the routers follow is found on the model, before training"
