"""The options of the plugin, as they stand under its name in a config: the kernels of the installed release, by their names."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic import ConfigDict, Field, create_model, model_validator

from longline import PluginConfig
from longline_liger import release

LOSSES = ("fused_linear_cross_entropy", "cross_entropy")
"""The kernels that replace the loss."""
GLU = ("swiglu", "geglu")
"""What Liger calls the kernel of a gated MLP, by its activation."""


class Kernels(PluginConfig):
    """Which kernels are applied: those that are `true`. Without any, Liger's own advice for the model type, less what is false."""

    model_config = ConfigDict(strict=True)

    rope: bool | None = None
    """Rotary position embedding."""
    rms_norm: bool | None = None
    """RMSNorm."""
    layer_norm: bool | None = None
    """LayerNorm, in towers for pictures."""
    glu_activation: bool | None = None
    """The gated MLP: swiglu or geglu, as the model type has it."""
    swiglu: bool | None = None
    """The gated MLP with SiLU; experts too, where Liger has a kernel for them."""
    geglu: bool | None = None
    """The gated MLP with GELU."""
    relu_squared: bool | None = None
    """The squared ReLU of Nemotron."""
    cross_entropy: bool | None = None
    """The cross entropy of logits; claims the loss."""
    fused_linear_cross_entropy: bool | None = None
    """Output head and cross entropy in one, without logits; claims the loss."""
    use_token_scaling: bool | None = None
    """Scale each token's loss by its predicted probability, detached; needs fused_linear_cross_entropy: true."""

    @model_validator(mode="after")
    def _fits_together(self) -> Kernels:
        asked = self.wanted()
        if all(name in asked for name in LOSSES):
            raise ValueError("cross_entropy and fused_linear_cross_entropy are two ways to the same loss: set one of them")
        named = [name for name in GLU if getattr(self, name) is not None]
        if self.glu_activation is not None and named:
            raise ValueError(f"glu_activation and {named[0]} name the same kernel: set one of them")
        if self.use_token_scaling and "fused_linear_cross_entropy" not in asked:
            raise ValueError("use_token_scaling is done by one kernel: set fused_linear_cross_entropy: true")
        return self

    def kernels(self) -> dict[str, bool]:
        """What the user said of kernels, true or false; not what is left out."""
        values = {name: getattr(self, name) for name in type(self).model_fields if name != "use_token_scaling"}
        return {name: value for name, value in values.items() if value is not None}

    def wanted(self) -> tuple[str, ...]:
        """The kernels that are asked for by name."""
        return tuple(name for name, value in self.kernels().items() if value)

    def unwanted(self) -> tuple[str, ...]:
        """The kernels that are refused by name."""
        return tuple(name for name, value in self.kernels().items() if not value)

    @property
    def may_replace_loss(self) -> bool:
        """Whether a kernel for the loss is asked for, or may be part of Liger's advice."""
        asked = self.wanted()
        return any(name in asked for name in LOSSES) if asked else not all(name in self.unwanted() for name in LOSSES)


class _Besides(Kernels):
    """Without docstrings of fields, which pydantic reads from source that a made class does not have."""

    model_config = ConfigDict(use_attribute_docstrings=False)


def options_of(offered: Iterable[str]) -> type[Kernels]:
    """The model of the options, with one for each offered kernel that `Kernels` does not know."""
    besides = [name for name in offered if name not in Kernels.model_fields]
    fields: dict[str, Any] = {
        name: (bool | None, Field(None, description="A kernel that the installed release offers.")) for name in besides
    }
    return create_model("LigerConfig", __base__=_Besides, __doc__=Kernels.__doc__, **fields)


LigerConfig = options_of(release.offered())
"""The options, with those of kernels that only the installed release knows."""
