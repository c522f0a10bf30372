"""All that this plugin needs of peft beyond its documentation: the classes that it puts on an output head, and what they compute.

Importing this module does not import peft.
"""

from __future__ import annotations

from typing import NamedTuple

from longline.upstream import Assumption, every, reads

TESTED: dict[str, str] = {"cut-cross-entropy": ">=25.1.1,<25.2"}
"""The versions between which the tests ran: the same ranges as in the metadata of the distribution."""


class Wrappers(NamedTuple):
    """What peft puts around a linear layer: a whole copy that is trained, trained rows, low-rank products."""

    copy: type
    rows: type
    lora: type


def wrappers() -> Wrappers:
    """The classes themselves."""
    from peft.tuners.lora import Linear
    from peft.utils import ModulesToSaveWrapper, TrainableTokensWrapper

    return Wrappers(ModulesToSaveWrapper, TrainableTokensWrapper, Linear)


ASSUMPTIONS: tuple[Assumption, ...] = (
    Assumption(
        "peft.utils.ModulesToSaveWrapper",
        "0.21.2",
        "it runs the first active one of modules_to_save, and original_module without an active one or when adapters are disabled",
        every(
            lambda: hasattr(wrappers().copy, "disable_adapters") and hasattr(wrappers().copy, "active_adapters"),
            reads("peft.utils:ModulesToSaveWrapper._forward_wrapped", says=("self.modules_to_save[self.active_adapters[0]](",)),
            reads("peft.utils:ModulesToSaveWrapper._forward_wrapped_passthrough", says=("self.original_module(",)),
        ),
    ),
    Assumption(
        "peft.utils.TrainableTokensWrapper.token_adapter",
        "0.21.2",
        "it runs token_adapter, whose get_merged_weights(active_adapters) is the weight of base_layer with trained rows in it",
        every(
            reads("peft.utils:TrainableTokensWrapper.init_modules", says=("self.token_adapter =",)),
            reads(
                "peft.tuners.trainable_tokens.layer:TrainableTokensLayer.get_merged_weights",
                takes=("active_adapters",),
                says=("W = self.base_layer.weight",),
            ),
        ),
    ),
    Assumption(
        "peft.tuners.lora.Linear",
        "0.21.2",
        "it adds lora_B(lora_A(lora_dropout(x))) * scaling of each active adapter to its base_layer, unless lora_variant has one",
        reads(
            "peft.tuners.lora:Linear.forward",
            says=(
                "lora_B(lora_A(dropout(x))) * scaling",
                "self.base_layer(x",
                "not in self.lora_variant",
                "self.disable_adapters",
            ),
        ),
    ),
)
"""What `heads` reads of these classes."""
