"""What becomes of a field that a resumed run has other than the run that made its checkpoint: said beside the field.

Fields of the config's own sections are annotated with an `OnResume`, which holds for all below it; those of the trainer, which are
a library's, stand in a table of the method, and are taken up where it has no word for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Effect = Literal["takes", "kept", "refused", "rows", "base", "batch", "untold"]
"""takes: the new value holds from here on; kept: the checkpoint's holds, whatever is said; refused: the run would not be the same;
rows, base, batch: what the value stands for is looked at (the rows to train on, the weights that are loaded, the rows of a step);
untold: it changes nothing in training."""


@dataclass(frozen=True, slots=True)
class OnResume:
    """What becomes of a difference, and why; `fresh` says it where the optimizer starts anew (`--weights-only`)."""

    effect: Effect
    why: str = ""
    fresh: Effect | None = None


TAKES, UNTOLD, ROWS, BASE = OnResume("takes"), OnResume("untold"), OnResume("rows"), OnResume("base")
BATCH = OnResume("batch")
ADAPTER = {"lora_dropout": TAKES}
"""The adapter's fields that an adapter can change under way; all others made it what it is."""

_OPTIMIZER = OnResume("refused", "the checkpoint has the state of the other optimizer", "takes")
_SCHEDULE = OnResume("refused", "the checkpoint has the state of the other schedule", "takes")
_GROUPS = OnResume("kept", "the optimizer's state in the checkpoint has it; --weights-only starts it anew", "takes")
_ORDER = OnResume("refused", "the order of the rows and all random numbers follow from it")
_PLACE = OnResume("refused", "the place in the data would be another")
_SHARDS = OnResume("refused", "the checkpoint is written in the form of the other")
_BEST = OnResume("refused", "what was best so far was measured by the other")
_LENGTH = OnResume("takes", "the schedule reckons with it from here on")
TRAINER: Mapping[str, OnResume] = {
    **dict.fromkeys(("per_device_train_batch_size", "gradient_accumulation_steps"), BATCH),
    **dict.fromkeys(("seed", "data_seed"), _ORDER),
    **dict.fromkeys(("train_sampling_strategy", "length_column_name", "dataloader_drop_last", "accelerator_config"), _PLACE),
    **dict.fromkeys(("optim", "optim_args", "optim_target_modules"), _OPTIMIZER),
    **dict.fromkeys(("lr_scheduler_type", "lr_scheduler_kwargs"), _SCHEDULE),
    **dict.fromkeys(("learning_rate", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon"), _GROUPS),
    **dict.fromkeys(("max_steps", "num_train_epochs", "warmup_steps"), _LENGTH),
    **dict.fromkeys(("fsdp", "fsdp_config", "deepspeed", "parallelism_config"), _SHARDS),
    **dict.fromkeys(("metric_for_best_model", "greater_is_better"), _BEST),
    "fp16": OnResume("refused", "the checkpoint has, or lacks, the scaling of the loss that it needs"),
}
"""Fields of transformers.TrainingArguments."""
GROUPED = OnResume("refused", "prompts are counted in groups of the other size")
