"""Going on: the run beside the one that made its checkpoint. What differs is told, or refused before the first step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from longline import artifacts
from longline.config import changes
from longline.config.dump import resolved
from longline.errors import ConfigError
from longline.methods import find
from longline.parallel.ranks import world_size
from longline.resuming import checkpoint, identity

if TYPE_CHECKING:
    from longline.config.changes import Change
    from longline.config.loader import LoadedConfig
    from longline.data import Prepared
    from longline.plugins.run import State
    from longline.resuming.checkpoint import Checkpoint

FACTS = ("device", "dtype", "bf16")
"""Facts of the plan that a machine decides where the config is silent."""


class AnotherRunError(ConfigError):
    """What is resumed would not be the same run, as is seen once rows or models are there.

    Give the run its own rows and models again, start another one in another `output_dir`, or take the weights alone with
    `--resume --weights-only`.
    """


@dataclass(frozen=True, slots=True)
class GoingOn:
    """The checkpoint, what the config has other than its record, and whether optimizer and schedule start anew."""

    checkpoint: Checkpoint
    changes: tuple[Change, ...]
    weights_only: bool


def begin(loaded: LoadedConfig, wanted: str, *, weights_only: bool) -> tuple[LoadedConfig, GoingOn]:
    """The config that rules, and what is gone on with. Raises ConfigError for a checkpoint or a difference that cannot be."""
    found = checkpoint.find(loaded.config.output_dir.absolute(), wanted, weights_only=weights_only)
    differences: list[Change] = []
    if found.record:
        loaded, differences = changes.settle(
            loaded, found.record["config"], fresh=weights_only, ranks=(found.record.get("ranks", world_size()), world_size())
        )
    if weights_only and loaded.config.trainer.get("deepspeed"):
        raise ConfigError("--weights-only: DeepSpeed loads weights and optimizer at once", hint="leave it out")
    asked = loaded.config.trainer
    unkept = [(name, why) for name, why in find(loaded.config.method).unkept.items() if asked.get(name)]
    if unkept and not weights_only:
        hint = "--weights-only goes on without it: optimizer and schedule start anew, too"
        raise ConfigError([loaded.problem(f"no checkpoint has {why}", "trainer", name) for name, why in unkept], hint=hint)
    return loaded, GoingOn(found, tuple(differences), weights_only)


@contextmanager
def untouched(going_on: GoingOn | None, manifest: Path) -> Iterator[None]:
    """Leave the manifest as it was where the run that would go on is refused."""
    before = manifest.read_bytes() if going_on and manifest.is_file() else None
    try:
        yield
    except AnotherRunError:
        if before is not None:
            artifacts.write_atomically(manifest, before.decode("utf-8"))
        raise


def tell(state: State, going_on: GoingOn) -> None:
    """Say what a run has other than the one that made its checkpoint."""
    run, record = state.view, going_on.checkpoint.record
    if not record:
        run.alert(
            "resumed",
            f"{going_on.checkpoint.path} has no {checkpoint.RECORD}: nobody can see whether config and data are the same",
        )
        return
    options = {plugin.name: plugin.options for plugin in state.plugins}
    told = [*going_on.changes, *changes.plugin_changes(record["config"], resolved(state.loaded, options))]
    for effect, title, level in (("kept", "the checkpoint rules", "warning"), ("takes", "takes effect", "info")):
        if texts := [str(change) for change in told if change.effect == effect]:
            run.alert(title, "; ".join(texts), level)  # type: ignore[arg-type]
    now = {"versions": artifacts.versions(), "facts": {fact.name: fact.value for fact in run.plan.facts}}
    said = {str(change.keys[-1]) for change in told}
    other = [
        f"{name} was {was} and is {now[part][name]}"
        for part in now
        for name, was in record[part].items()
        if now[part].get(name, was) != was and (part == "versions" or (name in FACTS and name not in said))
    ]
    if other:
        run.alert("resumed", "; ".join(other), "info")


def judge_rows(state: State, going_on: GoingOn, data: Prepared) -> None:
    """See that the rows are those of the checkpoint. Raises AnotherRunError; says so where others are evaluated on."""
    before = going_on.checkpoint.record.get("rows")
    if before is None:
        return
    named = [change for change in going_on.changes if change.effect == "rows"]
    if before["train"] != identity.of_rows(data.train):
        texts = [state.loaded.problem(change.what, *change.keys) for change in named]
        texts = texts or [
            state.loaded.problem(
                "the files, what makes tokens of them, or a plugin that has a hand in them, is another", "data", "train"
            )
        ]
        problem = state.loaded.problem("the rows are not those that the checkpoint was trained on", "data")
        raise AnotherRunError([problem, *texts], hint=changes.BACK)
    if named:
        state.view.alert("the rows are the same", "; ".join(map(str, named)), "info")
    if before.get("eval") != (now := identity.of_rows(data.eval) if data.eval is not None else None):
        text = "no rows are" if now is None else "other rows are"
        state.view.alert(f"{text} evaluated on", "what was best so far was measured on those of the checkpoint")


def judge_models(state: State, going_on: GoingOn) -> None:
    """See that the models are those of the checkpoint, as far as it does not have their weights. Raises AnotherRunError."""
    named = [change for change in going_on.changes if change.effect == "base"]
    for role, before in going_on.checkpoint.record.get("models", {}).items():
        now = state.models.get(role, before)
        other = before["dtype"] == now["dtype"] and now["weights"] and before["weights"] not in ("", now["weights"])
        replaced = role == "policy" and state.loaded.config.adapter is None  # by the checkpoint's
        if before["shape"] != now["shape"] or (other and not replaced):
            what = "is built otherwise than" if before["shape"] != now["shape"] else "has other weights than"
            texts = [state.loaded.problem(change.what, *change.keys) for change in named]
            problem = state.loaded.problem(f"the {role} model {what} that of the checkpoint", "model", "path")
            raise AnotherRunError([problem, *texts], hint=changes.BACK)
    if named:
        state.view.alert("the weights are those of the checkpoint", "; ".join(map(str, named)), "info")


def judge_trained(state: State, going_on: GoingOn) -> None:
    """See that the optimizer's moments are those of the weights that are trained, then save the config. Raises AnotherRunError."""
    before, now = going_on.checkpoint.record.get("trained"), identity.of_trained(state.trainer.model)
    if before in (None, now) or going_on.weights_only:
        if state.is_main:
            artifacts.write_config(state.plan.config_path, state.resolved)
        return
    text = f"the checkpoint trained {before['count']} tensors, and this run trains {now['count']}, which are not the same"
    hint = (
        "train the same ones, by the options of plugins that freeze; --weights-only goes on with an optimizer that starts anew"
    )
    raise AnotherRunError(text, hint=hint)


def record(state: State, data: Prepared) -> dict[str, Any]:
    """What a checkpoint of this run is made by."""
    options = {plugin.name: plugin.options for plugin in state.plugins}
    splits = {"train": data.train, "eval": data.eval}
    return {
        "config": resolved(state.loaded, options),
        "facts": {fact.name: fact.value for fact in state.plan.facts},
        "ranks": state.plan.world_size,
        "versions": artifacts.versions(),
        "rows": {name: identity.of_rows(rows) for name, rows in splits.items() if rows is not None},
        "models": state.models,
        "trained": identity.of_trained(state.trainer.model),
    }
