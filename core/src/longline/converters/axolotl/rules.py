"""What a rule of the table is: where a key of axolotl goes, and what a person should know; the documentation lists them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from longline.methods import find

if TYPE_CHECKING:
    from collections.abc import Callable

    from longline.converters.draft import Draft
    from longline.methods.base import Method


@dataclass(frozen=True, slots=True)
class Rule:
    """What becomes of a key: `to` is the place in our config for people, empty where there is none; `remark` says the rest.

    `act` translates the key alone; None for a key that a function of the same file translates together with others.
    """

    to: str
    remark: str = ""
    act: Callable[[Draft, str], None] | None = None


def same(to: str, remark: str = "") -> Rule:
    """The value goes as it is to another name."""
    return Rule(to, remark, lambda draft, key: draft.put(to, draft.get(key), key, note=remark))


def trainer(field: str, remark: str = "") -> Rule:
    """The value goes as it is to an argument of the trainer, if the method's has it."""
    return Rule(f"trainer.{field}", remark, lambda draft, key: set_trainer(draft, field, draft.get(key), (key,), note=remark))


def nothing(why: str) -> Rule:
    """Nothing has to be set."""
    return Rule("", why, lambda draft, key: draft.accept(key, why))


def none(nearest: str) -> Rule:
    """No equal; what is switched off there is not missed."""

    def act(draft: Draft, key: str) -> None:
        if draft.get(key) is False:
            draft.accept(key, "off, as it is here")
        else:
            draft.refuse(key, nearest)

    return Rule("-", nearest, act)


def together(to: str, remark: str = "") -> Rule:
    """A key that is translated together with others."""
    return Rule(to, remark)


def set_trainer(draft: Draft, field: str, value: Any, keys: tuple[Any, ...], *, note: str = "") -> None:
    """Set an argument of the trainer from a key of the file, or say why the method's trainer has none such."""
    method = method_of(draft)
    if field in method.refused:
        draft.refuse(keys, method.refused[field])
    elif field in method.fields():
        draft.put(f"trainer.{field}", value, keys, note=note)
    elif value is False:
        draft.accept(keys, "off, as it is here")
    else:
        draft.refuse(keys, f"{method.arguments_name} has no `{field}`, so method {method.name} has none")


# --- which method -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Training:
    """What a word of `rl:` means here: the method, arguments of its trainer, and what its rows are."""

    method: str
    rows: str
    arguments: tuple[tuple[str, Any], ...] = ()


PLAIN = Training("sft", "samples")
REWARD = Training("reward", "preference")
RL: dict[str, Training] = {
    "dpo": Training("dpo", "preference"),
    "ipo": Training("dpo", "preference", (("loss_type", "ipo"),)),
    "orpo": Training("orpo", "preference"),
    # Its trainer is trl's for CPO, whose own term it leaves on unless the file says otherwise; our method simpo has it off.
    "simpo": Training("simpo", "preference", (("cpo_alpha", 1.0),)),
    "kto": Training("kto", "unpaired"),
    "grpo": Training("grpo", "prompts"),
    "gdpo": Training("grpo", "prompts", (("multi_objective_aggregation", "normalize_then_sum"),)),
}
"""The words of `rl:` that have an equal."""


def training_of(draft: Draft) -> Training:
    """What the file trains by."""
    if draft.get("reward_model") is True:
        return REWARD
    return RL.get(str(draft.get("rl")).lower(), PLAIN)


def method_of(draft: Draft) -> Method:
    """The method that the file becomes."""
    return find(training_of(draft).method)
