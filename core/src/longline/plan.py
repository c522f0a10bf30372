"""Config -> Plan: every fact that follows from a config, a machine and the number of rows, decided in one place.

Pure: nothing is read, written or imported beyond the config, so `longline plan` can print it and a test can compare it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from longline.config.attention import BEST, PackingLayout, lookup
from longline.methods import find
from longline.methods.base import TRAINER_DEFAULTS, Fact, Method, Output
from longline.methods.trl import CHECKPOINTING

if TYPE_CHECKING:
    from longline.config.sections import Config

Device = Literal["cpu", "cuda", "mps", "xpu"]

_NOT_TOLD = {
    "output_dir",
    "report_to",
    "disable_tqdm",
    "remove_unused_columns",
    "logging_nan_inf_filter",
    "metric_for_best_model",
}
"""What Longline tells every trainer itself."""
MULTIPLE = 64
"""Matrices whose products a CPU computes in half precision have a multiple of so many rows. oneDNN compiles a kernel for every
shape and keeps it. With rows of any length each batch had to wait for its own, a fifth of a step, and a 7M model grew from 1.4 to
3.8 GB within 150 steps. Limits for oneDNN's caches bound the memory, but not the waiting."""
PADDING_WHY = "a CPU compiles and keeps a kernel of every shape in half precision"


@dataclass(frozen=True, slots=True)
class Machine:
    """What the plan needs to know of the hardware; `parallel.machine.machine()` reads it."""

    device: Device = "cpu"
    bfloat16: bool = False
    world_size: int = 1
    threads: int = 0
    """Threads of each rank, and why so many; 0 when nobody looked."""
    threads_why: str = ""


BEST_ATTENTION = Fact("attention", ", else ".join(BEST), "the first that the model has")
"""Where the config names none; `Plan.with_attention` replaces it once the model's class is known."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The derived facts of a run. Steps are None until `with_rows` told the number of rows (packs count as rows)."""

    method: str
    """The method's name."""
    dtype: Literal["float32", "bfloat16", "float16"]
    """The type of the weights as they are loaded."""
    packing: PackingLayout | None
    """How several samples share a row: `rows`, `flat` (each batch is one row), or None."""
    seed: int
    """`trainer.seed`."""
    per_device_batch: int
    """Rows in a batch of one rank."""
    accumulation: int
    """Batches of each rank in an optimizer step."""
    epochs: float
    """`trainer.num_train_epochs`; `max_steps` above 0 comes before it."""
    max_steps: int
    """`trainer.max_steps`, -1 where epochs decide."""
    trainer_args: dict[str, Any]
    """The keyword arguments of the method's arguments class."""
    facts: tuple[Fact, ...]
    """What `longline plan` prints: name, value and why."""
    output_dir: Path
    """The run folder."""
    machine: Machine
    """Devices, ranks and threads."""
    pad_to_multiple_of: int | None = None
    """Rows of a batch are padded to a multiple of so many tokens."""
    rows: int | None = None
    """Training rows, where packs count as rows; None until data is prepared."""
    steps: int | None = None
    """Optimizer steps of the whole run; None until `rows` is known."""

    @property
    def device(self) -> Device:
        """What each rank computes on."""
        return self.machine.device

    @property
    def world_size(self) -> int:
        """The number of ranks."""
        return self.machine.world_size

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
    def output(self) -> Output:
        """What the model puts out: tokens, or one score."""
        return find(self.method).output

    @property
    def checkpointing(self) -> bool:
        """Whether activations are computed again in the backward pass, to save memory."""
        return any(self.trainer_args.get(name) for name in CHECKPOINTING)

    def with_fact(self, name: str, value: str, why: str) -> Plan:
        """Return the plan with one more fact, or another value of one that is there."""
        fact = Fact(name, value, why)
        others = tuple(known for known in self.facts if known.name != name)
        if len(others) == len(self.facts):
            return replace(self, facts=(*others, fact))
        return replace(self, facts=tuple(fact if known.name == name else known for known in self.facts))

    def with_rows(self, rows: int) -> Plan:
        """Return the plan with the number of training rows, and so of optimizer steps, known.

        Raises:
            ValueError: there are too few rows for the method to train on.
        """
        batches = find(self.method).batches(rows, self)
        per_epoch = max(1, math.ceil(batches / self.accumulation))
        steps = self.max_steps if self.max_steps > 0 else math.ceil(per_epoch * self.epochs)
        why = "trainer.max_steps" if self.max_steps > 0 else f"{rows} rows, {per_epoch} steps an epoch, {self.epochs:g} epochs"
        return replace(self, rows=rows, steps=steps).with_fact("steps", str(steps), why)

    def with_attention(self, taken: str, model_class: str) -> Plan:
        """Return the plan with the attention known that a class of models takes where the config names none."""
        known = BEST_ATTENTION in self.facts
        return self.with_fact("attention", taken, f"the best that {model_class} has") if known else self


def build_plan(config: Config, machine: Machine, final: Mapping[str, Any] | None = None) -> Plan:
    """Decide everything that can be decided before data and model are loaded.

    `final` are the trainer's arguments as plugins left them; without it they are the config's, completed.
    """
    dtype, dtype_why = _dtype(config, machine)
    method = find(config.method)
    packing, packing_why = _packing(config, method)
    args, args_facts = _trainer_args(config, machine)
    if final is not None:
        args_facts, args = _changed(args, args_facts, final), dict(final)
    multiple = MULTIPLE if machine.device == "cpu" and (dtype != "float32" or args.get("bf16") or args.get("fp16")) else None
    if multiple and method.draws_answers:
        # trl pads what is drawn and learnt by itself, without our collator.
        args.setdefault("pad_to_multiple_of", multiple)
    plan = Plan(
        method=config.method,
        dtype=dtype,
        packing=packing,
        seed=int(args["seed"]),
        per_device_batch=int(args["per_device_train_batch_size"]),
        accumulation=int(args["gradient_accumulation_steps"]),
        epochs=float(args["num_train_epochs"]),
        max_steps=int(args["max_steps"]),
        trainer_args=args,
        facts=(),
        output_dir=config.output_dir.absolute(),
        machine=machine,
        pad_to_multiple_of=multiple,
    )
    return replace(plan, facts=_facts(config, plan, {"dtype": dtype_why, "packing": packing_why}, args_facts))


def _changed(args: Mapping[str, Any], facts: Sequence[Fact], final: Mapping[str, Any]) -> list[Fact]:
    """The facts of the trainer's arguments once plugins have had their hands on them."""
    changed = [name for name in final if name in args and args[name] != final[name]]
    shown = {*changed, *(name for name in final if name not in args)} - _NOT_TOLD
    kept = [fact for fact in facts if fact.name not in changed]
    return kept + [Fact(name, str(final[name]), "a plugin, in pre_trainer_args") for name in final if name in shown]


def _facts(config: Config, plan: Plan, why: Mapping[str, str], of_args: Sequence[Fact]) -> tuple[Fact, ...]:
    """The lines of `longline plan`, in the order of a config's sections."""
    machine, attention, padding = plan.machine, config.model.attn_implementation, plan.pad_to_multiple_of
    layout = f"packed {plan.packing}" if plan.packing else find(plan.method).kind.rpartition(":")[2].lower()
    batch = f"{plan.per_device_batch} per device x {plan.accumulation} accumulated x {plan.world_size} processes"
    return (
        Fact("method", config.method, "config"),
        Fact("model", config.model.path, "config"),
        Fact("adapter", _adapter_text(config), "config"),
        Fact("device", machine.device, f"{machine.world_size} process{'es' if machine.world_size > 1 else ''}"),
        *([Fact("threads", f"{machine.threads} per process", machine.threads_why)] if machine.threads else []),
        Fact("dtype", plan.dtype, why["dtype"]),
        Fact("attention", attention, "model.attn_implementation") if attention else BEST_ATTENTION,
        Fact("layout", layout, why["packing"]),
        Fact("batch", f"{plan.global_batch} rows a step", batch),
        *of_args,
        *([Fact("padding", f"to multiples of {padding}", PADDING_WHY)] if padding else []),
        Fact("output", str(config.output_dir), "config"),
    )


def _adapter_text(config: Config) -> str:
    return f"{config.adapter.type}, r={config.adapter.r}" if config.adapter else "none: all weights are trained"


def _dtype(config: Config, machine: Machine) -> tuple[Literal["float32", "bfloat16", "float16"], str]:
    """`auto`: bfloat16 only for weights that stay frozen, and only where the device computes in it."""
    if config.model.dtype != "auto":
        return config.model.dtype, "model.dtype"
    if config.adapter is None:
        # In bfloat16 an update of less than 0.2 % of a weight is rounded away.
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
        # About twice as fast on a CPU with AMX, and the weights keep their small updates.
        return True, f"auto: this {machine.device} computes in bfloat16; weights stay float32"
    return False, f"auto: this {machine.device} has no fast bfloat16"


def _packing(config: Config, method: Method) -> tuple[PackingLayout | None, str]:
    if not method.packs:
        return None, f"method {method.name}"
    if not config.data.packing:
        return None, "data.packing is off"
    attention = lookup(config.model.attn_implementation)
    packing: PackingLayout | None = attention.packing if attention else None
    if packing is None:
        raise ValueError(f"{config.model.attn_implementation} cannot isolate packed samples")  # check_config refuses it before
    return packing, "data.packing, samples kept apart by attention"


def _trainer_args(config: Config, machine: Machine) -> tuple[dict[str, Any], list[Fact]]:
    """The trainer's arguments with Longline's defaults, and a fact for each that the user did not write."""
    method = find(config.method)
    args = {**TRAINER_DEFAULTS, **method.defaults, **deepcopy(config.trainer)}
    facts = []
    if not {"bf16", "fp16"} & config.trainer.keys():
        # trl's own default would be another one than transformers'; here one config means the same for every method
        args["bf16"], why = _mixed(config, machine)
        facts.append(Fact("bf16", str(args["bf16"]).lower(), why))
    has_eval = bool(config.data.eval) or config.data.eval_fraction is not None
    # Who names evaluation data wants to see the number; the default of transformers is never.
    if has_eval and not {"eval_strategy", "eval_steps"} & config.trainer.keys():
        args["eval_strategy"] = "epoch"
        facts.append(Fact("eval_strategy", "epoch", "there is evaluation data and trainer.eval_strategy is not set"))
    elif has_eval and "eval_strategy" not in config.trainer:
        args["eval_strategy"] = "steps"
        facts.append(Fact("eval_strategy", "steps", "trainer.eval_steps is set"))
    facts += method.settle(args, config, machine)
    if machine.world_size > 1 and "ddp_find_unused_parameters" not in config.trainer:
        # Looking for unused weights costs a pass over the graph in every step.
        args["ddp_find_unused_parameters"] = False
        facts.append(Fact("ddp_find_unused_parameters", "false", "every weight of a model of text takes part in every step"))
    if machine.device == "cpu":
        args.setdefault("use_cpu", True)
        # Pinned memory is for copies to a device; torch warns where there is none.
        args.setdefault("dataloader_pin_memory", False)
    return args, facts
