"""Every hook of Longline, in the order of time: the contract with plugin authors.

The name tells the kind, and the kind says what happens when a plugin raises:

- **shape**, `pre_<stage>` and `post_<stage>`: all plugins, in the config's order; may change what they are handed, in place,
  and return nothing. An exception stops the run and names the plugin.
- **provide**, `provide_<thing>`: the first answer that is not None is used, the core's own is asked last. An exception stops
  the run; two plugins that claim the same thing are refused before any work.
- **observe**, `on_<event>`: all plugins, in the config's order; change nothing. An exception is contained: logged once,
  counted, shown at the end; the others are still called and training goes on. `on_error: raise` in the plugin's options makes
  it strict: then the others are still called, and the run stops after that.

A plugin names only the arguments that it wants. `run` is a `longline.Run`, which is read: id, config, plan, rank, world_size,
is_main, output_dir, phase, hook. Hooks up to the model fire wherever one is loaded or data is prepared, so that `longline evaluate`
sees what training saw; `run.command` says for what. Lifecycle hooks (`on_run_start` to `on_run_end`) fire when a run trains.
Annotations are free to import: nothing here imports torch or transformers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import pluggy

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from datasets import Dataset
    from peft import PeftConfig
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer

    from longline.data import Prepared
    from longline.events import Alert, Completions, RewardFunction, Role, Status, Summary, Table, Timing
    from longline.plugins.run import Run

PROJECT = "longline"

Kind = Literal["shape", "provide", "observe"]
Ranks = Literal["all", "main"]
Function = TypeVar("Function", bound=Callable[..., Any])
LossFunction = Callable[..., "tuple[torch.Tensor, Any]"]

hookimpl = pluggy.HookimplMarker(PROJECT)
"""Marks a method that answers the hook of its name: `@hookimpl`, without arguments."""
_hookspec = pluggy.HookspecMarker(PROJECT)


@dataclass(frozen=True, slots=True)
class HookFacts:
    """What the bus and the generated reference know of a hook: kind, ranks, when it fires, the names of its arguments.

    `repeated` hooks fire again and again while a run trains; the others are paid for once. `patient` ones are there for what takes
    long, and are not told as slow. `fault` says what is wrong with what a provide hook was answered, or None; `seal` is called with
    the arguments before each plugin's turn.
    """

    kind: Kind
    ranks: Ranks
    when: str
    arguments: tuple[str, ...]
    repeated: bool = False
    fault: Callable[[object], str | None] | None = None
    seal: Callable[[Mapping[str, Any]], None] | None = None
    patient: bool = False


def hook_facts() -> dict[str, HookFacts]:
    """The facts of every hook by its name, in the order of time."""
    return {name: value.facts for name, value in globals().items() if hasattr(value, "facts")}


def _spec(
    when: str,
    *,
    ranks: Ranks = "all",
    repeated: bool = False,
    fault: Callable[[object], str | None] | None = None,
    seal: Callable[[Mapping[str, Any]], None] | None = None,
    patient: bool = False,
) -> Callable[[Function], Function]:
    """Marks a hook specification; the kind follows from its name."""

    def mark(function: Function) -> Function:
        prefix = function.__name__.partition("_")[0]
        kinds: dict[str, Kind] = {"pre": "shape", "post": "shape", "provide": "provide", "on": "observe"}
        arguments = function.__code__.co_varnames[: function.__code__.co_argcount]
        function.facts = HookFacts(kinds[prefix], ranks, when, arguments, repeated, fault, seal, patient)  # type: ignore[attr-defined]
        return _hookspec(function, firstresult=prefix == "provide")

    return mark


# --- what answers must be: seen at once, so that the plugin is named and not the library that would stumble over it -------------


def _is_function(answer: object) -> str | None:
    return None if callable(answer) else f"a {type(answer).__name__} is no function"


def _has(*names: str) -> Callable[[object], str | None]:
    """An answer with these attributes; libraries are not imported to look at classes."""

    def fault(answer: object) -> str | None:
        missing = [name for name in names if not hasattr(answer, name)]
        return f"a {type(answer).__name__} has no {' or '.join(missing)}" if missing else None

    return fault


def _are_rewards(answer: object) -> str | None:
    if not isinstance(answer, (list, tuple)):
        return f"a {type(answer).__name__} is no list of longline.RewardFunction"
    wrong = next((item for item in answer if type(item).__name__ != "RewardFunction"), None)
    return None if wrong is None else f"the list holds a {type(wrong).__name__}, no longline.RewardFunction"


def _is_trainer_class(answer: object) -> str | None:
    bases = [base.__name__ for base in answer.__mro__] if isinstance(answer, type) else []
    return None if "LonglineTrainer" in bases else "it must be a class that derives from LonglineTrainer"


def _seal_metrics(arguments: Mapping[str, Any]) -> None:
    if seal := getattr(arguments["logs"], "seal", None):
        seal()


# --- the run begins -----------------------------------------------------------------------------------------------------------


@_spec("once, before any work; every plugin is loaded and its options are valid")
def on_run_start(run: Run) -> None:
    """The run exists, its folder is there and writable, nothing is loaded yet."""


@_spec("once, before the arguments object is built and anything is loaded")
def pre_trainer_args(run: Run, trainer_args: dict[str, Any]) -> None:
    """`trainer_args` are the keyword arguments of the method's arguments class and may be changed; the plan is built again then."""


@_spec(
    "once, for methods that draw answers (grpo, rloo), before anything is loaded; the core answers with the config's `rewards`",
    fault=_are_rewards,
)
def provide_reward_functions(run: Run) -> list[RewardFunction] | None:
    """The functions that score answers; their names become columns and metrics."""


@_spec("once for each model, before its tokenizer is loaded")
def pre_tokenizer_load(run: Run, tokenizer_kwargs: dict[str, Any]) -> None:
    """`tokenizer_kwargs` go to `AutoTokenizer.from_pretrained` and may be changed."""


@_spec("once, after the tokenizer is loaded and has its chat template, pad token and new tokens")
def post_tokenizer_load(run: Run, tokenizer: PreTrainedTokenizerBase) -> None:
    """`tokenizer` may be changed in place; it is what the data is prepared with and what is saved."""


# --- data ---------------------------------------------------------------------------------------------------------------------


@_spec("once, before sources are read")
def pre_data_load(run: Run) -> None:
    """Nothing is read yet; files that the config names may still be made: those that are missing are looked for afterwards."""


@_spec(
    "for each split, after rows are prepared or taken from the cache; the core answers with the split as it is",
    fault=_has("column_names", "features", "__len__"),
)
def provide_dataset(run: Run, dataset: Dataset, split: str) -> Dataset | None:
    """Another data set of the same kind of rows for `split` (train or eval), such as `dataset.map(...)` or `.filter(...)`.

    What `datasets` makes of it is kept beside the prepared data, under a fingerprint that extends its own, on every rank the same.
    """


@_spec("once, after rows are tokenised, masked and packed, or taken from the cache")
def post_data_load(run: Run, data: Prepared) -> None:
    """`data.train` and `data.eval` are `datasets.Dataset` with the columns of their kind of row; `data.report` holds the counts."""


# --- model --------------------------------------------------------------------------------------------------------------------


@_spec("once for each model: `role` is policy, reference for methods that compare with one, or what run.load_model was given")
def pre_model_load(run: Run, model_kwargs: dict[str, Any], role: Role) -> None:
    """`model_kwargs` go to `from_pretrained` of the model's class and may be changed; no weights are loaded yet."""


@_spec(
    "once for each model, after pre_model_load; the core answers with `from_pretrained`",
    fault=_has("config", "named_parameters", "get_input_embeddings"),
)
def provide_model(run: Run, model_kwargs: dict[str, Any], role: Role) -> PreTrainedModel | None:
    """A model with its weights. `run.default("provide_model")` loads as the core does."""


@_spec("once for each model, after its weights are loaded and before an adapter is put on")
def post_model_load(run: Run, model: PreTrainedModel, role: Role) -> None:
    """`model` may be changed in place. Where `run.tuned` is set its weights were trained, and saved with what was done to them."""


@_spec("once, when the config has an adapter")
def pre_adapter_create(run: Run, adapter_config: PeftConfig) -> None:
    """`adapter_config` may be changed in place; the model is still bare."""


@_spec("once, when the config has an adapter, after peft put it on")
def post_adapter_create(run: Run, model: PreTrainedModel) -> None:
    """`model` is the peft model; which weights are trainable is decided."""


# --- trainer ------------------------------------------------------------------------------------------------------------------


@_spec("once; the core answers with the method's trainer", fault=_is_trainer_class)
def provide_trainer_class(run: Run) -> type[Trainer] | None:
    """A class that derives from the method's own trainer, or from `LonglineTrainer`; its class method `build` makes the trainer."""


@_spec("once; the core answers with the collator of the method's kind of row", fault=_is_function)
def provide_collator(run: Run, tokenizer: PreTrainedTokenizerBase) -> Callable[[list[dict[str, Any]]], dict[str, Any]] | None:
    """A function from a list of rows to a batch; `run.default("provide_collator")` gives the core's, to build on."""


@_spec("once; the core answers with the method's own loss", fault=_is_function)
def provide_loss(run: Run, model: PreTrainedModel) -> LossFunction | None:
    """A function `(trainer, model, inputs, num_items_in_batch) -> (loss, outputs)`, called for every batch of training and of
    evaluations; there `model.training` is false.

    `inputs` is a batch on the device without what no model knows: row_ids and further columns are in `trainer.columns`.
    `num_items_in_batch` are the trained tokens of the whole optimizer step over all ranks and accumulated batches, and
    None in an evaluation, for those of the batch; `loss` is a scalar, the sum over the batch's trained tokens divided by
    it. For methods on trl's trainers the batch and the scale are trl's. The core's answer for sft makes logits of trained
    tokens alone, and in training leaves none in `outputs.logits`. Claim `loss` when you answer.
    """


@_spec("once, when the trainer is built and nothing has been trained")
def post_trainer_create(run: Run, trainer: Trainer) -> None:
    """`trainer` may be changed in place, for example with `trainer.add_callback`."""


@_spec("once; the core answers with what `trainer.optim` names", fault=_has("step", "param_groups"))
def provide_optimizer(run: Run, trainer: Trainer, model: PreTrainedModel) -> torch.optim.Optimizer | None:
    """An optimizer over the trainable parameters of `model`."""


@_spec("once, after the optimizer; the core answers with what `trainer.lr_scheduler_type` names", fault=_has("step"))
def provide_scheduler(
    run: Run, trainer: Trainer, optimizer: torch.optim.Optimizer, num_training_steps: int
) -> torch.optim.lr_scheduler.LRScheduler | None:
    """A learning-rate scheduler that is stepped once for each optimizer step."""


# --- training -----------------------------------------------------------------------------------------------------------------


@_spec("once, before the first step; after a resume the trainer's state is restored")
def on_train_begin(run: Run, trainer: Trainer) -> None:
    """Training starts."""


@_spec("at every optimizer step, when gradients are accumulated and reduced, before they are clipped", repeated=True)
def pre_gradient_clip(run: Run, trainer: Trainer, step: int) -> None:
    """Gradients may be read or changed, free of float16's scale; what comes of it is clipped, and its norm logged as `grad_norm`.

    `step` counts from 1. With `trainer.max_grad_norm: 0` nothing is clipped, and it fires all the same.
    """


@_spec("at every optimizer step, after gradients are clipped and before weights change", repeated=True)
def pre_optimizer_step(run: Run, trainer: Trainer, step: int) -> None:
    """Gradients may be read or changed; `step` counts from 1 and is the step that is about to be made."""


@_spec("at every optimizer step, after the weights changed and before gradients are cleared", repeated=True)
def post_optimizer_step(run: Run, trainer: Trainer, step: int) -> None:
    """Weights and gradients may be read or changed, on every rank; `step` is the step that was just made."""


@_spec("at every optimizer step of a preference or reinforcement method, before on_step_end", ranks="main", repeated=True)
def on_completions(run: Run, completions: Completions, step: int) -> None:
    """`completions` are the texts and numbers that the trainer used for `step`; decoded only if somebody answers."""


@_spec("at every optimizer step, after the weights changed", ranks="main", repeated=True)
def on_step_end(run: Run, step: int) -> None:
    """`step` optimizer steps are done."""


@_spec("whenever the trainer logs, before on_log", repeated=True, seal=_seal_metrics)
def pre_log(run: Run, logs: dict[str, float], step: int) -> None:
    """`logs` may get more metrics, numbers all: what is added on the main rank reaches log and trackers in the same event.

    Metrics that others have put there stay as they are.
    """


@_spec("whenever the trainer logs: `trainer.logging_steps`, evaluations, the end", ranks="main", repeated=True)
def on_log(run: Run, logs: Mapping[str, float], step: int) -> None:
    """`logs` holds the metrics by their trainer names (loss, learning_rate, grad_norm, eval_loss ...) and is read-only."""


@_spec("after every evaluation", ranks="main", repeated=True)
def on_evaluate(run: Run, metrics: Mapping[str, float], step: int) -> None:
    """`metrics` as the trainer computed them; they were already logged."""


@_spec("after every checkpoint, when its folder is complete", ranks="main", repeated=True)
def on_checkpoint(run: Run, path: Path, step: int) -> None:
    """`path` is `<output_dir>/checkpoint-<step>`."""


@_spec("once, when training is over, also when it was stopped by a signal; not after an exception")
def on_train_end(run: Run, trainer: Trainer) -> None:
    """Weights are final and not yet saved as `model/`."""


@_spec("once before the final model is saved, and when `longline merge` saves one")
def pre_save(run: Run, model: PreTrainedModel) -> None:
    """`model` is what will be saved, bare of what the trainer wrapped around it, and may be changed in place."""


@_spec("once, when weights, tokenizer and model card are written, before their folder gets its name", ranks="main")
def post_save(run: Run, path: Path) -> None:
    """`path` is the folder of the model that is being saved, also by `longline merge`; files in it may be added or changed."""


@_spec("once, after the final model, tokenizer and model card are complete", ranks="main")
def on_save(run: Run, path: Path) -> None:
    """`path` is `<output_dir>/model`."""


@_spec("once, when the final model is saved and still in memory; not when a signal stopped the run", patient=True)
def on_trained(run: Run, trainer: Trainer) -> None:
    """For what takes long and must not endanger the model, such as an evaluation: a signal ends it at once.

    `trainer.model` is the model that was saved, where training left it: on its device, sharded, with its adapter.
    """


# --- events that anyone raises ------------------------------------------------------------------------------------------------


@_spec("whenever the core or a plugin has something to tell a person", ranks="main", repeated=True)
def on_alert(run: Run, alert: Alert) -> None:
    """Raise one with `run.hook.on_alert(run=run, alert=Alert(...))`."""


@_spec("whenever a plugin tells a fact of the run, with `run.fact`", ranks="main")
def on_fact(run: Run, name: str, value: str, why: str) -> None:
    """`name` and `value` for people, and `why` it is so."""


@_spec("whenever a plugin has rows to show, such as completions", ranks="main", repeated=True)
def on_table(run: Run, table: Table) -> None:
    """Raise one with `run.hook.on_table(run=run, table=Table(...))`."""


@_spec("whenever something was timed", ranks="main", repeated=True)
def on_timing(run: Run, timing: Timing) -> None:
    """Raise one with `run.hook.on_timing(run=run, timing=Timing(...))`."""


# --- the run ends -------------------------------------------------------------------------------------------------------------


@_spec("when an exception ends the run, before on_run_end")
def on_error(run: Run, error: BaseException) -> None:
    """`error` is what stopped the run; it is raised again afterwards."""


@_spec("exactly once for each run, also after an exception or a signal")
def on_run_end(run: Run, status: Status, summary: Summary) -> None:
    """The last hook. `status` is completed, failed or interrupted."""
