"""What the methods on trl's trainers share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from longline.config import fields
from longline.methods.base import COLLATOR, REFUSED, CompletionColumns, Fact, Method, Refusal, Starter

if TYPE_CHECKING:
    from longline.config.sections import Config
    from longline.plan import Machine

CHECKPOINTING = ("activation_checkpointing", "gradient_checkpointing")
"""What the argument that trades time for memory is called, the newest name first."""
NO_ENCODER = "Longline trains causal models; this is for encoder-decoders"
_MODEL_SECTION = "the config's `model` section says what is loaded and how"
_TABLES = "the plugin `completions` keeps and shows them"


class TrlMethod(Method):
    """A method whose trainer and arguments are trl's."""

    requirement = "trl>=1.16"
    evaluation = None
    no_evaluation = Refusal(
        "evaluate measures answers that are known, and {method} has rows of another kind",
        "its own measures are in log.jsonl; an sft config with this model's path measures it on answers",
    )
    refused: ClassVar[Mapping[str, str]] = {
        **REFUSED,
        "model_init_kwargs": _MODEL_SECTION,
        "trust_remote_code": "use `model.trust_remote_code`",
        "pad_token": "use `model.tokenizer.pad_token`",
        "eos_token": "use `model.tokenizer.eos_token`",
        "chat_template_path": "use `model.tokenizer.chat_template`",
        "max_length": "use `data.max_length`",
        "truncation_mode": "Longline cuts the end off; see `data.too_long`",
        "padding_value": COLLATOR,
        "padding_free": "trl does not implement it at present",
        "dataset_num_proc": "Longline prepares data in batches; nothing to set",
        "is_encoder_decoder": NO_ENCODER,
        "generate_during_eval": "it needs another tracker; use `longline generate RUN` after the run",
        "shuffle_dataset": "use `data.shuffle`",
        "reward_weights": "give each of `rewards` its `weight`",
        **dict.fromkeys(
            (
                "log_completions",
                "log_completions_hub_repo",
                "log_unique_prompts",
                "log_multimodal",
                "num_completions_to_print",
            ),
            _TABLES,
        ),
    }

    unkept: ClassVar[Mapping[str, str]] = {"sync_ref_model": "the reference that has followed the policy"}

    @property
    def _sources(self) -> tuple[str, str]:
        """The modules of trl's config and of its trainer."""
        module = self.arguments.partition(":")[0]
        return module, module.replace("_config", "_trainer")

    def loss_types(self) -> tuple[str, ...]:
        """The words that trl's config and trainer compare `loss_type` with."""
        return () if "loss_type" in self.refused else fields.compared(self._sources, "loss_type")

    def measures(self) -> frozenset[str] | None:
        """What trl's trainer notes; what a trainer of somebody else's does, nobody knows."""
        own = self.trainer.startswith("longline.trainers.")
        return fields.noted(self._sources) - {"num_tokens"} | {"loss"} if own else None

    def settle(self, args: dict[str, Any], config: Config, machine: Machine) -> list[Fact]:
        """Leave checkpointing of activations off unless it is asked for: trl would turn it on, and sft has it off."""
        known = [name for name in CHECKPOINTING if name in self.fields()]
        if known and not set(known) & config.trainer.keys():
            # One config means the same for every method.
            args[known[0]] = False
        return super().settle(args, config, machine)


class PairMethod(TrlMethod):
    """A method that learns from a better and a worse answer to the same prompt."""

    kind = "longline.data.kinds.pair:PAIR"
    counts_flops = True
    completions = CompletionColumns(
        texts=("prompt", "chosen", "rejected"), numbers=("reward_chosen", "reward_rejected", "margin"), score="margin"
    )
    starter = Starter("preference: prompt, chosen, rejected", learning_rate="2.0e-5", more="  beta: 0.1")

    def orders_by_batch(self, trainer: Mapping[str, Any]) -> bool:
        """Pairs are grouped by their length in batches unless `trainer:` says otherwise."""
        return super().orders_by_batch({"train_sampling_strategy": "group_by_length", **trainer})

    def sampling(self, config: Config) -> tuple[str, str] | None:
        """Group pairs by their length unless rows shall keep their order."""
        return super().sampling(config) or ("group_by_length", "pairs of like lengths need less padding")
