"""What a method is: all that Longline needs to know of one, in an object that imports neither torch nor transformers.

Whoever brings a method derives a class from `Method`, and names an instance in the entry-point group `longline.methods`. What a
method needs of heavy libraries, it names as `package.module:object`: that is read as source to check a config, and imported to
train.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from longline.config import fields, going_on
from longline.config.check import Check as Check
from longline.config.explain import nearest
from longline.errors import ConfigError, LonglineError, Problem
from longline.upstream.transformers import default_optimizer

if TYPE_CHECKING:
    from transformers import Trainer, TrainingArguments

    from longline.config.fields import LibraryField
    from longline.config.going_on import OnResume
    from longline.config.loader import LoadedConfig
    from longline.config.sections import Config
    from longline.events import Column
    from longline.plan import Machine, Plan
    from longline.trainers import Parts

Output = Literal["tokens", "score"]

_TRACKER = "Longline's own log is log.jsonl; trackers are plugins"
_HUB = "Longline does not push; upload <output_dir>/model with `hf upload` after the run"
_DATA_SECTION = "the config's `data` section decides what is trained and evaluated on"
COLLATOR = "Longline's collator decides which columns reach the model"
_KERNELS = "kernels are plugins, so that one that does not fit is an error"
# A field that is accepted and then ignored is the worst kind of default.
REFUSED: Mapping[str, str] = {
    "output_dir": "set `output_dir` at the top of the config",
    "resume_from_checkpoint": "use `longline train CONFIG --resume`",
    "restore_callback_states_from_checkpoint": "a resumed run always gives callbacks what they had",
    **dict.fromkeys(
        ("report_to", "run_name", "project", "trackio_space_id", "trackio_bucket_id", "trackio_static_space_id"), _TRACKER
    ),
    **dict.fromkeys(
        ("push_to_hub", "hub_token", "hub_private_repo", "hub_model_id", "hub_strategy", "hub_always_push", "hub_revision"),
        _HUB,
    ),
    **dict.fromkeys(("do_train", "do_eval", "do_predict"), _DATA_SECTION),
    **dict.fromkeys(("remove_unused_columns", "label_names"), COLLATOR),
    **dict.fromkeys(("use_liger_kernel", "liger_kernel_config"), _KERNELS),
    "disable_tqdm": "Longline shows its own progress line",
    "logging_nan_inf_filter": "use `nonfinite_loss: continue` to go on after a loss that is NaN or infinite",
    "enable_jit_checkpoint": "Longline itself saves a checkpoint when it is told to stop",
    "auto_find_batch_size": "the plan fixes the batch; set `per_device_train_batch_size` and `gradient_accumulation_steps`",
    "local_rank": "use `longline train CONFIG --nproc N`, or torchrun",
}
"""Trainer arguments that Longline sets itself, or that would do nothing under it, whatever the method: what to use instead."""

TRAINER_DEFAULTS: dict[str, Any] = {
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 1,
    "num_train_epochs": 3.0,
    "max_steps": -1,
    "logging_steps": 10,
    "logging_first_step": True,
    "seed": 42,
}
"""What Longline assumes when `trainer:` is silent. All but the two logging fields are transformers' own defaults."""


@dataclass(frozen=True, slots=True)
class Fact:
    """One line of `longline plan`: a resolved value and where it came from."""

    name: str
    value: str
    why: str


@dataclass(frozen=True, slots=True)
class CompletionColumns:
    """The columns of the rows that `on_completions` tells of: texts, numbers (or flags), and which number tells good rows from
    bad ones. A method that draws answers adds a number for each reward function.
    """

    texts: tuple[str, ...]
    numbers: tuple[str, ...]
    score: str


@dataclass(frozen=True, slots=True)
class Starter:
    """What is the method's own in the config that `longline new` writes: its formats, what stands before `trainer:` and at the
    end of it, other trainer fields than those of most, and the section `plugins` where it needs one.
    """

    formats: str
    before: str = ""
    learning_rate: str = "2.0e-4"
    more: str = ""
    data: str = ""
    plugins: str = "plugins: []                        # `longline plugins` lists what is installed"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why something cannot be done with a tuned model, and what to do instead; `{name}` is the model's, `{method}` the method's."""

    text: str
    hint: str | None = None


class Method:
    """A method of training. The defaults are those of a causal model that learns rows by `transformers.Trainer`.

    Attributes:
        name: what `method:` calls it; the name of its entry point.
        summary: what it is, in a few words.
        kind: the place of its kind of row.
        columns: further columns of the data that its trainer needs beside those of its kind of row.
        packs: whether several samples may share a row, and one be split over several.
        chooses_trained: whether `data.train_on` means anything.
        arguments: the place of the class that `trainer:` gives the fields of.
        requirement: what to install when that class is not there.
        trainer: the place of the trainer that the core answers `provide_trainer_class` with; it is built by its `build`.
        output: what the model puts out for a row: a token at each place, or one score.
        cross_entropy: whether the loss is the model's own, the cross entropy of labels, which `provide_loss` may replace.
        counts_flops: whether the tokens that are trained on tell the arithmetic of a step.
        defaults: trainer arguments that make the method what it is; `trainer:` may say otherwise unless they are refused.
        refused: trainer arguments that a config may not set, each with what to use instead.
        on_resume: trainer arguments that a resumed run cannot take otherwise without a word, and what becomes of a difference.
        unkept: trainer arguments under which the trainer has a state that no checkpoint has, each with what is lost.
        draws_answers: whether the policy answers prompts in training, and reward functions score them.
        completions: the columns of its `on_completions`; None when it tells of none.
        generation: the place of the function by which a tuned model answers (see `longline.inference.answers.answer_all`).
        evaluation: the place of the one that measures it (see `longline.inference.measures.measure_loss`).
        no_generation: why it answers nothing, where `generation` is None.
        no_evaluation: why it is not measured, where `evaluation` is None.
        starter: what is its own in the config of `longline new`.
    """

    name: str = ""
    summary: str = ""
    kind: str = "longline.data.kinds.sample:SAMPLE"
    columns: tuple[Column, ...] = ()
    packs: bool = False
    chooses_trained: bool = False
    arguments: str = "transformers.training_args:TrainingArguments"
    requirement: str = "transformers>=5.0"
    trainer: str = "longline.trainers.sft:SFTTrainer"
    output: Output = "tokens"
    cross_entropy: bool = False
    counts_flops: bool = False
    defaults: ClassVar[Mapping[str, Any]] = {}
    refused: ClassVar[Mapping[str, str]] = REFUSED
    on_resume: ClassVar[Mapping[str, OnResume]] = going_on.TRAINER
    unkept: ClassVar[Mapping[str, str]] = {}
    draws_answers: bool = False
    completions: CompletionColumns | None = None
    generation: str | None = "longline.inference.answers:answer_all"
    evaluation: str | None = "longline.inference.measures:measure_loss"
    no_generation: Refusal = Refusal("{name} writes no answers")
    no_evaluation: Refusal = Refusal("evaluate has no measure for {method}", "its own measures are in log.jsonl")
    starter: Starter = Starter("auto")

    # --- a tuned model ----------------------------------------------------------------------------------------------------------

    def answering(self, name: str) -> Callable[..., Iterator[tuple[int, list[int]]]]:
        """Import the function by which a tuned model, called `name`, answers. Raises ConfigError where there is none."""
        found: Callable[..., Iterator[tuple[int, list[int]]]] = self._imported(self.generation, self.no_generation, name)
        return found

    def measuring(self, name: str) -> Callable[..., dict[str, float]]:
        """Import the function that measures a tuned model, called `name`. Raises ConfigError where there is none."""
        found: Callable[..., dict[str, float]] = self._imported(self.evaluation, self.no_evaluation, name)
        return found

    def _imported(self, place: str | None, refusal: Refusal, name: str) -> Any:
        if place is None:
            raise ConfigError(refusal.text.format(name=name, method=self.name), hint=refusal.hint)
        return imported(place)

    # --- arguments of the trainer -----------------------------------------------------------------------------------------------

    def fields(self) -> Mapping[str, LibraryField]:
        """Every field of the arguments' class, read from its source; empty when its library is not installed."""
        return fields.fields_of(self.arguments)

    @property
    def arguments_name(self) -> str:
        """What documentation calls the arguments' class: the package that offers it, and its name."""
        module, _, name = self.arguments.partition(":")
        return f"{module.rpartition('.')[0] or module}.{name}"

    def arguments_class(self) -> type[TrainingArguments]:
        """Import the arguments' class."""
        found: type[TrainingArguments] = imported(self.arguments)
        return found

    def assumed(self) -> dict[str, Any]:
        """The trainer arguments that hold where `trainer:` is silent, as far as the source of their class tells."""
        known = fields.known_defaults(self.fields())
        return {"optim": default_optimizer(), **known, **TRAINER_DEFAULTS, **self.defaults}

    def orders_by_batch(self, trainer: Mapping[str, Any]) -> bool:
        """Whether the order of rows depends on how many make a batch, with these trainer arguments."""
        by_batch = trainer.get("train_sampling_strategy") in {"group_by_length", "batch_rebalance"}
        return by_batch or bool(trainer.get("dataloader_drop_last"))

    def build_arguments(self, trainer_args: Mapping[str, Any]) -> TrainingArguments:
        """Build the arguments.

        Raises:
            ConfigError: the class refuses a value or a combination.
        """
        cls = self.arguments_class()
        with refusals(f"{cls.__module__.partition('.')[0]}.{cls.__name__}"):
            return cls(**trainer_args)

    def loss_types(self) -> tuple[str, ...]:
        """The words that `trainer.loss_type` may be; none where it is no choice, or nobody knows them."""
        return ()

    def measures(self) -> frozenset[str] | None:
        """The names of the numbers that an evaluation gives, `*` for what nobody knows before; None where they are not known."""
        return None

    def settle(self, args: dict[str, Any], config: Config, machine: Machine) -> list[Fact]:
        """Set what is the method's to decide in `args`, the trainer's arguments so far; returns a fact for each that a person
        would want to know of. What `config.trainer` says stays.
        """
        found = None if "train_sampling_strategy" in config.trainer else self.sampling(config)
        if found is None:
            return []
        args["train_sampling_strategy"], why = found
        return [Fact("train_sampling_strategy", found[0], why)]

    def sampling(self, config: Config) -> tuple[str, str] | None:
        """The `train_sampling_strategy` where the config names none, and why; None leaves it to the trainer."""
        return None if config.data.shuffle else ("sequential", "data.shuffle is off")

    # --- what must fit together -------------------------------------------------------------------------------------------------

    def checks(self) -> Iterator[Check]:
        """What must fit together in a config of this method, each check with the dotted paths that it reads."""
        yield Check(self.has_library, ())
        yield Check(self.fits_data, ("data.packing", "data.train_on", "data.train", "data.eval"))
        yield Check(self.splits_data, ("data.too_long", "data.overlap", "data.join", "data.train", "data.eval"))
        yield Check(self.fits_rewards, ("rewards", "plugins"))
        yield Check(self.knows_loss, ("trainer.loss_type",))

    def has_library(self, loaded: LoadedConfig) -> Iterator[Problem]:
        """The class of the arguments must be installed."""
        if not self.fields():
            library = self.arguments.partition(".")[0]
            hint = f"pip install '{self.requirement}'"
            yield loaded.problem(f"{self.name} needs {library}, which is not installed or too old", "method", hint=hint)

    def fits_data(self, loaded: LoadedConfig) -> Iterator[Problem]:
        """Packing and the choice of what is learnt belong to some methods alone."""
        data = loaded.config.data
        if data.packing and not self.packs:
            yield loaded.problem(
                f"{self.name} compares whole rows, which cannot be packed", "data", "packing", hint="remove it"
            )
        if self.chooses_trained:
            return
        text, hint = f"means nothing for {self.name}", "remove it: completions are learnt, prompts are not"
        if data.train_on is not None:
            yield loaded.problem(text, "data", "train_on", hint=hint)
        for part, sources in (("train", data.train), ("eval", data.eval)):
            for index, source in enumerate(sources):
                if source.train_on is not None:
                    yield loaded.problem(text, "data", part, index, "train_on", hint=hint)

    def splits_data(self, loaded: LoadedConfig) -> Iterator[Problem]:
        """Rows that are compared, or answered, are one whole."""
        data = loaded.config.data
        if self.packs:
            return
        text, hint = f"{self.name} takes a row as a whole, which cannot be split", "remove it, or set too_long: drop"
        for name, asked in (("too_long", data.too_long == "split"), ("overlap", data.overlap), ("join", data.join)):
            if asked:
                yield loaded.problem(text, "data", name, hint=hint)
        for part, sources in (("train", data.train), ("eval", data.eval)):
            for index, source in enumerate(sources):
                if source.too_long == "split":
                    yield loaded.problem(text, "data", part, index, "too_long", hint=hint)

    def fits_rewards(self, loaded: LoadedConfig) -> Iterator[Problem]:
        """What scores answers needs some."""
        if loaded.config.rewards:
            hint = "remove them, or use a method that draws answers: grpo or rloo"
            yield loaded.problem(f"{self.name} scores no answers", "rewards", hint=hint)

    def knows_loss(self, loaded: LoadedConfig) -> Iterator[Problem]:
        """A loss that the trainer does not know; most would find out in the first step."""
        given, known = loaded.config.trainer.get("loss_type"), self.loss_types()
        for word in given if isinstance(given, list) else [given]:
            if word is not None and known and word not in known:
                hint = nearest(str(word), known) or f"one of {', '.join(sorted(known))}"
                yield loaded.problem(f"{self.name} has no loss {word!r}", "trainer", "loss_type", hint=hint)

    # --- the run ----------------------------------------------------------------------------------------------------------------

    def batches(self, rows: int, plan: Plan) -> int:
        """How many batches each rank computes in an epoch of so many rows.

        Raises:
            ValueError: there are too few rows for one.
        """
        return math.ceil(math.ceil(rows / plan.world_size) / plan.per_device_batch)

    def repeated(self, rows: int, plan: Plan) -> int:
        """How many of so many rows an epoch has twice: accelerate fills up the last batches of ranks from the front."""
        if plan.world_size == 1 or plan.trainer_args.get("dataloader_drop_last"):
            return 0
        return self.batches(rows, plan) * plan.per_device_batch * plan.world_size - rows

    def has_reference(self, args: TrainingArguments) -> bool:
        """Whether the policy is compared with a model that was not tuned, which the run has to load."""
        return False

    def trainer_class(self) -> type[Trainer]:
        """Import the trainer that the core answers with."""
        found: type[Trainer] = imported(self.trainer)
        return found

    def build(self, parts: Parts, args: TrainingArguments) -> Trainer:
        """Build the trainer that the hooks settled on.

        Raises:
            ConfigError: its class refuses something.
        """
        trainer: Trainer = parts.trainer_class.build(parts, args)  # type: ignore[attr-defined]
        return trainer


@contextmanager
def refusals(what: str) -> Iterator[None]:
    """What the constructor of a library's class refuses is a fault of the config. Raises ConfigError."""
    try:
        yield
    except LonglineError:
        raise
    except (TypeError, ValueError, NotImplementedError, ImportError) as error:
        raise ConfigError([Problem(f"{what}: {error}", path="trainer")]) from error


def imported(place: str) -> Any:
    """The object at `package.module:object`."""
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)
