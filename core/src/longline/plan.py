"""Config -> Plan: every fact that follows from a config, a machine and the number of rows, decided in one place.

Pure: nothing is read, written or imported beyond the config, so `longline plan` can print it and a test can compare it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from longline.config.attention import PackingLayout, lookup
from longline.config.fields import trainer_fields

if TYPE_CHECKING:
    from longline.config.sections import Config

Layout = Literal["padded", "rows", "flat", "pairs", "labelled", "prompts"]
Device = Literal["cpu", "cuda", "mps", "xpu"]
Head = Literal["tokens", "score"]

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
class MethodFacts:
    """What the stages need to know of a method: how its rows are laid out (None: as packing says), what its model puts out, the
    arguments that make it what it is, and whether rows are prompts that the policy answers in training.
    """

    layout: Layout | None = None
    head: Head = "tokens"
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def score(self) -> str:
        """The column of on_completions that tells good rows from bad ones."""
        return "margin" if self.layout == "pairs" else "reward"

    @property
    def answers(self) -> bool:
        """Whether the policy answers prompts in training, and rewards score them."""
        return self.layout == "prompts"


METHODS: dict[str, MethodFacts] = {
    "sft": MethodFacts(),
    "dpo": MethodFacts("pairs"),
    "orpo": MethodFacts("pairs"),
    "cpo": MethodFacts("pairs"),
    "simpo": MethodFacts("pairs", arguments={"loss_type": "simpo", "cpo_alpha": 0.0}),
    "reward": MethodFacts("pairs", head="score"),
    "kto": MethodFacts("labelled"),
    "grpo": MethodFacts("prompts"),
    "rloo": MethodFacts("prompts"),
}
"""Every method. SimPO is CPO's trainer with its loss and, unless `trainer.cpo_alpha` says otherwise, without its NLL term."""
KINDS: dict[str, str] = {
    method: {
        None: "longline.data.kinds.sample:SAMPLE",
        "pairs": "longline.data.kinds.pair:PAIR",
        "labelled": "longline.data.kinds.labelled:LABELLED",
        "prompts": "longline.data.kinds.prompt:PROMPT",
    }[facts.layout]
    for method, facts in METHODS.items()
}
"""Where the kind of row of each method is."""
CHECKPOINTING = ("activation_checkpointing", "gradient_checkpointing")
"""What the argument that trades time for memory is called, the newest name first."""
MULTIPLE = 64
"""Matrices whose products a CPU computes in half precision have a multiple of so many rows. oneDNN compiles a kernel for every
shape and keeps it, so without that each batch has to wait for its own, and memory grows by megabytes a step."""
PADDING_WHY = "a CPU compiles and keeps a kernel of every shape in half precision"
GENERATIONS = {"grpo": 8, "rloo": 2}
"""How many answers trl draws for each prompt unless `trainer.num_generations` says otherwise."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What the plan needs to know of the hardware; `parallel.machine.machine()` reads it."""

    device: Device = "cpu"
    bfloat16: bool = False
    world_size: int = 1
    threads: int = 0
    """Threads of each rank, and why so many; 0 when nobody looked."""
    threads_why: str = ""


@dataclass(frozen=True, slots=True)
class Fact:
    """One line of `longline plan`: a resolved value and where it came from."""

    name: str
    value: str
    why: str


@dataclass(frozen=True, slots=True)
class Plan:
    """The derived facts of a run. Steps are None until `with_rows` told the number of rows (packs count as rows)."""

    method: str
    dtype: Literal["float32", "bfloat16", "float16"]
    layout: Layout
    device: Device
    world_size: int
    seed: int
    per_device_batch: int
    accumulation: int
    epochs: float
    max_steps: int
    trainer_args: dict[str, Any]
    facts: tuple[Fact, ...]
    output_dir: Path
    pad_to_multiple_of: int | None = None
    rows: int | None = None
    steps: int | None = None

    @property
    def kind(self) -> str:
        """Where the kind of row is, as `package.module:NAME`."""
        return KINDS[self.method]

    @property
    def packing(self) -> PackingLayout | None:
        """How several samples share a row."""
        return self.layout if self.layout in ("rows", "flat") else None

    @property
    def global_batch(self) -> int:
        """Rows per optimizer step, over all ranks and accumulated batches."""
        return self.per_device_batch * self.accumulation * self.world_size

    @property
    def model_dir(self) -> Path:
        """Where the final weights or adapter go."""
        return self.output_dir / "model"

    @property
    def manifest_path(self) -> Path:
        """The run's manifest."""
        return self.output_dir / "run.json"

    @property
    def config_path(self) -> Path:
        """The resolved config."""
        return self.output_dir / "config.yaml"

    @property
    def log_path(self) -> Path:
        """One JSON object per logged event."""
        return self.output_dir / "log.jsonl"

    @property
    def head(self) -> Head:
        """What the model puts out: tokens, or one score."""
        return METHODS[self.method].head

    def with_rows(self, rows: int) -> Plan:
        """Return the plan with the number of training rows, and so of optimizer steps, known.

        Raises:
            ValueError: the method takes prompts in groups, and there are fewer than one group.
        """
        batches = math.ceil(math.ceil(rows / self.world_size) / self.per_device_batch)
        if METHODS[self.method].answers:
            batches = self._batches_of_prompts(rows)
        per_epoch = max(1, math.ceil(batches / self.accumulation))
        steps = self.max_steps if self.max_steps > 0 else math.ceil(per_epoch * self.epochs)
        why = "trainer.max_steps" if self.max_steps > 0 else f"{rows} rows, {per_epoch} steps an epoch, {self.epochs:g} epochs"
        return replace(self, rows=rows, steps=steps, facts=(*self.facts, Fact("steps", str(steps), why)))

    def _batches_of_prompts(self, rows: int) -> int:
        """Batches of one epoch: a group of prompts is answered at once and trained on `steps_per_generation` times as many
        batches; prompts that fill no group are left for another epoch's order.
        """
        args = self.trainer_args
        answers = args.get("generation_batch_size") or 0
        accumulated = args.get("steps_per_generation") or self.accumulation
        repeats = answers // (self.per_device_batch * self.world_size) if answers else accumulated
        answers = answers or self.per_device_batch * self.world_size * repeats
        group = answers // (args.get("num_generations") or GENERATIONS[self.method])
        if rows < group:
            raise ValueError(f"{rows} prompts, but {group} are answered at once ({answers} answers for each generation)")
        return (rows // group if group else 0) * repeats * int(args.get("num_iterations", 1))


def build_plan(config: Config, machine: Machine) -> Plan:
    """Decide everything that can be decided before data and model are loaded."""
    dtype, dtype_why = _dtype(config, machine)
    layout, layout_why = _layout(config)
    args, args_facts = _trainer_args(config, machine)
    multiple = MULTIPLE if machine.device == "cpu" and (dtype != "float32" or args.get("bf16") or args.get("fp16")) else None
    if multiple and METHODS[config.method].answers:
        args.setdefault("pad_to_multiple_of", multiple)
    plan = Plan(
        method=config.method,
        dtype=dtype,
        layout=layout,
        device=machine.device,
        world_size=machine.world_size,
        seed=int(args["seed"]),
        per_device_batch=int(args["per_device_train_batch_size"]),
        accumulation=int(args["gradient_accumulation_steps"]),
        epochs=float(args["num_train_epochs"]),
        max_steps=int(args["max_steps"]),
        trainer_args=args,
        facts=(),
        output_dir=config.output_dir.absolute(),
        pad_to_multiple_of=multiple,
    )
    facts = (
        Fact("method", config.method, "config"),
        Fact("model", config.model.path, "config"),
        Fact("adapter", _adapter_text(config), "config"),
        Fact("device", machine.device, f"{machine.world_size} process{'es' if machine.world_size > 1 else ''}"),
        *([Fact("threads", f"{machine.threads} per process", machine.threads_why)] if machine.threads else []),
        Fact("dtype", dtype, dtype_why),
        Fact("attention", config.model.attn_implementation, "config or default"),
        Fact("layout", f"packed {layout}" if layout in ("rows", "flat") else layout, layout_why),
        Fact(
            "batch",
            f"{plan.global_batch} rows a step",
            f"{plan.per_device_batch} per device x {plan.accumulation} accumulated x {plan.world_size} processes",
        ),
        *args_facts,
        *([Fact("padding", f"to multiples of {multiple}", PADDING_WHY)] if multiple else []),
        Fact("output", str(config.output_dir), "config"),
    )
    return replace(plan, facts=facts)


def _adapter_text(config: Config) -> str:
    return f"{config.adapter.type}, r={config.adapter.r}" if config.adapter else "none: all weights are trained"


def _dtype(config: Config, machine: Machine) -> tuple[Literal["float32", "bfloat16", "float16"], str]:
    """`auto`: bfloat16 only for weights that stay frozen, and only where the device computes in it."""
    if config.model.dtype != "auto":
        return config.model.dtype, "model.dtype"
    if config.adapter is None:
        return "float32", "auto: all weights are trained, and bfloat16 weights lose small updates"
    if machine.bfloat16:
        return "bfloat16", f"auto: the base is frozen and this {machine.device} computes in bfloat16"
    return "float32", f"auto: this {machine.device} has no fast bfloat16"


def _mixed(config: Config, machine: Machine) -> tuple[bool, str]:
    """Whether matrices are multiplied in bfloat16 while weights, sums and updates stay float32."""
    if config.model.dtype != "auto":
        return False, "model.dtype is given"
    if config.adapter is not None:
        return False, "auto: the dtype of the frozen base decides"
    if machine.bfloat16:
        return True, f"auto: this {machine.device} computes in bfloat16; weights stay float32"
    return False, f"auto: this {machine.device} has no fast bfloat16"


def _layout(config: Config) -> tuple[Layout, str]:
    if own := METHODS[config.method].layout:
        return own, f"method {config.method}"
    if not config.data.packing:
        return "padded", "data.packing is off"
    attention = lookup(config.model.attn_implementation)
    packing: PackingLayout | None = attention.packing if attention else None
    if packing is None:
        raise ValueError(f"{config.model.attn_implementation} cannot isolate packed samples")  # check_config refuses it before
    return packing, f"data.packing, isolated by {config.model.attn_implementation}"


def _trainer_args(config: Config, machine: Machine) -> tuple[dict[str, Any], list[Fact]]:
    """The trainer's arguments with Longline's defaults, and a fact for each that the user did not write."""
    method = METHODS[config.method]
    args = {**TRAINER_DEFAULTS, **method.arguments, **config.trainer}
    facts = []
    if not {"bf16", "fp16"} & config.trainer.keys():
        # trl's own default would be another one than transformers'; here one config means the same for every method
        args["bf16"], why = _mixed(config, machine)
        facts.append(Fact("bf16", str(args["bf16"]).lower(), why))
    if config.method != "sft":
        # trl would turn it on
        names = [name for name in CHECKPOINTING if name in trainer_fields(config.method)]
        if names and not set(names) & config.trainer.keys():
            args[names[0]] = False
    has_eval = bool(config.data.eval) or config.data.eval_fraction is not None
    if has_eval and not {"eval_strategy", "eval_steps"} & config.trainer.keys():
        args["eval_strategy"] = "epoch"
        facts.append(Fact("eval_strategy", "epoch", "there is evaluation data and trainer.eval_strategy is not set"))
    elif has_eval and "eval_strategy" not in config.trainer:
        args["eval_strategy"] = "steps"
        facts.append(Fact("eval_strategy", "steps", "trainer.eval_steps is set"))
    if method.answers:
        args["shuffle_dataset"] = config.data.shuffle
    elif not config.data.shuffle and "train_sampling_strategy" not in config.trainer:
        args["train_sampling_strategy"] = "sequential"
        facts.append(Fact("train_sampling_strategy", "sequential", "data.shuffle is off"))
    elif method.layout == "pairs" and "train_sampling_strategy" not in config.trainer:
        args["train_sampling_strategy"] = "group_by_length"
        facts.append(Fact("train_sampling_strategy", "group_by_length", "pairs of like lengths need less padding"))
    if machine.world_size > 1 and "ddp_find_unused_parameters" not in config.trainer:
        args["ddp_find_unused_parameters"] = False
        facts.append(Fact("ddp_find_unused_parameters", "false", "every weight of a causal model takes part in every step"))
    if machine.device == "cpu":
        args.setdefault("use_cpu", True)
        args.setdefault("dataloader_pin_memory", False)
    return args, facts
