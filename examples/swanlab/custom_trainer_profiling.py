"""Time the parts of a trainer of your own, and see them in SwanLab beside the parts that longline-profiling times by itself.

    python examples/swanlab/custom_trainer_profiling.py [KEY=VALUE ...]

Takes lora_profiling.yaml, puts a trainer with a z-loss (Chowdhery et al. 2022, PaLM) in the place of the core's, and trains. The
arguments are those of `longline train --set`, such as model.path=FOLDER.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from longline import LonglineError, Plugin, PluginConfig, hookimpl
from longline.config.loader import load_config
from longline.plugins import LoadedPlugin
from longline.run import train
from longline.trainers.sft import SFTTrainer
from longline_profiling import profile, profiled

CONFIG = Path(__file__).with_name("lora_profiling.yaml")


class ZLossTrainer(SFTTrainer):
    """Adds 1e-4 times the squared log of the softmax's normaliser to the loss, which keeps logits from drifting."""

    def method_loss(self, model, inputs, num_items_in_batch=None):
        """Return the loss with its z-loss, and the model's outputs."""
        loss, outputs = super().method_loss(model, inputs, num_items_in_batch)
        with profile("ZLossTrainer.z_loss"):  # a block gets any name
            return loss + 1e-4 * self.normaliser(outputs.logits, inputs["labels"]).mean(), outputs

    @profiled
    def normaliser(self, logits, labels):
        """Return the squared log normaliser of every trained token."""  # a method gets the name Class.method
        trained = labels[..., 1:] != -100
        return torch.logsumexp(logits[..., :-1, :][trained].float(), dim=-1).square()


class ZLossPlugin(Plugin):
    """Puts the trainer in."""

    @hookimpl
    def provide_trainer_class(self):
        """Answer before the core does."""
        return ZLossTrainer


def main() -> int:
    """Train; the exit status is that of `longline train`."""
    try:
        loaded = load_config(CONFIG, ["output_dir=runs/custom-trainer", *sys.argv[1:]])
        result = train(loaded, overwrite=True, plugins=[LoadedPlugin.of(ZLossPlugin(PluginConfig()))])
    except LonglineError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(f"where the time went: longline profile show {result.output_dir}")
    return result.exit_code


if __name__ == "__main__":
    sys.exit(main())
