"""The config of a resumed run beside the one that made its checkpoint: each difference takes effect, is put back, or is refused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from longline.config import fields
from longline.config.dump import resolved
from longline.config.explain import model_at, models_in
from longline.config.frozen import freeze
from longline.config.going_on import ADAPTER, TAKES, Effect, OnResume
from longline.config.method import find
from longline.config.sections import Config
from longline.errors import ConfigError

if TYPE_CHECKING:
    from longline.config.document import Keys
    from longline.config.loader import LoadedConfig

BACK = "put back what the checkpoint was made with, or start another run: another output_dir, and no --resume"


@dataclass(frozen=True, slots=True)
class Change:
    """One difference: where, both values (None where nothing is said), and what becomes of it."""

    keys: Keys
    before: Any
    now: Any
    effect: Effect
    why: str = ""

    def __str__(self) -> str:
        return f"{'.'.join(map(str, self.keys))} {self.what}"

    @property
    def what(self) -> str:
        """What became of the value, in words that follow its path."""
        was, is_ = _shown(self.before), _shown(self.now)
        if self.effect == "kept":
            return f"stays {was}, {is_} has no effect: {self.why}"
        return f"was {was} and is {is_}" + (f": {self.why}" if self.why else "")


def settle(
    loaded: LoadedConfig, before: Mapping[str, Any], *, fresh: bool, ranks: tuple[int, int] = (1, 1)
) -> tuple[LoadedConfig, list[Change]]:
    """The config that rules, and every difference from `before`, the resolved config of the checkpoint; plugins are left out.

    `fresh`: the optimizer and its schedule start anew. What the checkpoint rules is put back, so that nothing that is saved or
    shown says otherwise. Raises ConfigError for what would make it another run.
    """
    now = resolved(loaded)
    found = list(compare(before, now, fresh=fresh, ranks=ranks))
    refused = [change for change in found if change.effect == "refused"]
    if refused:
        raise ConfigError([loaded.problem(change.what, *change.keys) for change in refused], hint=BACK)
    trainer = dict(loaded.config.trainer)
    for change in found:
        if change.effect == "kept":
            name = str(change.keys[-1])
            trainer.pop(name, None)
            said = (before.get("trainer") or {}).get(name)
            trainer |= {} if said is None else {name: said}
    ruling = freeze(loaded.config.model_copy(update={"trainer": trainer}))
    return replace(loaded, config=ruling), [change for change in found if change.effect != "untold"]


def compare(
    before: Mapping[str, Any], now: Mapping[str, Any], *, fresh: bool = False, ranks: tuple[int, int] = (1, 1)
) -> Iterator[Change]:
    """Every difference between two resolved configs but those of plugins, and of their ranks; of another method that alone."""
    method = str(now.get("method"))
    if before.get("method") != method:
        yield Change(("method",), before.get("method"), method, "refused", rule_of(("method",), method).why)
        return
    old, new = _completed(before, method), _completed(now, method)
    batch = _batch(old["trainer"], new["trainer"], method, now.get("trainer") or {}, ranks)
    if ranks[0] != ranks[1]:
        yield Change(("processes",), *ranks, *batch)
    for keys, was, is_ in _differences(old, new, ()):
        rule = rule_of(keys, method)
        effect: Effect = rule.fresh if fresh and rule.fresh else rule.effect
        why = rule.why if effect == rule.effect else ""
        if effect == "batch":
            effect, why = batch
        yield Change(keys, was, is_, effect, why)


def plugin_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Change]:
    """The options that plugins of both configs have otherwise: they take effect, and what can't is the plugin's to refuse."""
    old, new = (config.get("plugins") or {} for config in (before, now))
    found = (item for name in new if name in old for item in _differences(old[name], new[name], ("plugins", name)))
    return [Change(keys, was, is_, "takes") for keys, was, is_ in found]


def rule_of(keys: Keys, method: str) -> OnResume:
    """What becomes of a difference at `keys`: the word of the innermost field that has one."""
    if keys[0] == "trainer" and len(keys) > 1:
        return find(method).on_resume.get(str(keys[1]), TAKES)
    found: OnResume | None = None
    models: tuple[type[BaseModel], ...] = (Config,)
    for key in keys:
        field = next((model.model_fields[key] for model in models if key in model.model_fields), None)
        if field is None:
            continue  # the index of a list's item, or a field of peft's
        found = next((mark for mark in field.metadata if isinstance(mark, OnResume)), found)
        models = tuple(models_in(field.annotation))
    if keys[0] == "adapter" and len(keys) > 1:
        found = ADAPTER.get(str(keys[1]), found)
    if found is None:
        raise LookupError(f"{'.'.join(map(str, keys))} does not say what becomes of it on a resume")
    return found


def _batch(
    before: Mapping[str, Any], now: Mapping[str, Any], method: str, said: Mapping[str, Any], ranks: tuple[int, int]
) -> tuple[Effect, str]:
    """Rows are counted in steps, so a step must have as many; and in the same order, where a batch decides about that."""
    sizes = zip((before, now), ranks, strict=True)
    old, new = ((args["per_device_train_batch_size"] * number, args["gradient_accumulation_steps"]) for args, number in sizes)
    if old[0] * old[1] != new[0] * new[1]:
        text = f"a step had {old[0] * old[1]} rows and now has {new[0] * new[1]}, so the place in the data is lost"
        fit, rest = divmod(old[0], ranks[1])
        same = f"per_device_train_batch_size: {fit} and gradient_accumulation_steps: {old[1]} give it as many"
        return "refused", text if rest or ranks[0] == ranks[1] else f"{text}; {same}"
    if old != new and find(method).orders_by_batch(said):
        return "refused", "the order of the rows follows from it"
    return "takes", "a step has as many rows as before"


def _completed(config: Mapping[str, Any], method: str) -> dict[str, Any]:
    """A resolved config with what the classes of libraries assume where it is silent."""
    made = {**config, "trainer": {**find(method).assumed(), **(config.get("trainer") or {})}}
    if made.get("adapter"):
        made["adapter"] = {**fields.known_defaults(fields.adapter_fields()), **made["adapter"]}
    return made


# --- differences --------------------------------------------------------------------------------------------------------------


def _differences(before: Any, now: Any, keys: Keys) -> Iterator[tuple[Keys, Any, Any]]:
    """The innermost places at which two resolved configs differ, what is left out being as it is by default."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in dict.fromkeys([*now, *before]):
            if not keys and key in {"plugins", "method"}:
                continue
            old, new = (side[key] if key in side else _default((*keys, key)) for side in (before, now))
            yield from _differences(old, new, (*keys, key))
    elif _are_sections(before) and _are_sections(now) and len(before) == len(now):
        for index, (old, new) in enumerate(zip(before, now, strict=True)):
            yield from _differences(old, new, (*keys, index))
    elif _plain(before) != _plain(now):
        yield keys, before, now


def _are_sections(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str) and all(isinstance(item, Mapping) for item in value)


def _default(keys: Keys) -> Any:
    """What a field of a section is that is left out; None where nobody knows."""
    section = model_at(Config, keys[:-1])
    field = section.model_fields.get(str(keys[-1])) if section else None
    value = field.get_default(call_default_factory=True) if field and not field.is_required() else None
    return {} if isinstance(value, BaseModel) else value


def _plain(value: Any) -> Any:
    """Numbers alike whatever their type; nothing, an empty list and an empty mapping are the same."""
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value] or None
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()} or None
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _shown(value: Any) -> str:
    text = "not set" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= 60 else f"{text[:56]}..."
