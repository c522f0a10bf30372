"""The options of the plugin, as they stand under its name in a config."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from longline import PluginConfig

Always = Literal["embeddings", "head", "norms"]
Threshold = Literal["edge", "published"]


class SpectrumConfig(PluginConfig):
    """Which matrices are trained, by what they measure; all else is frozen."""

    top_fraction: Annotated[float, Field(gt=0, strict=True, allow_inf_nan=False)]
    """The share of the layers that is trained, of each kind of matrix by itself, those with the highest ratio: 0.5 is one half."""
    model: Annotated[str, Field(min_length=1)] | None = None
    """The model whose scan is used: a folder, a .safetensors or .gguf file, or a hub id. Left out: the one that is trained."""
    scan: Path | None = None
    """The file of a scan, as `longline spectrum scan MODEL --output FILE` writes it, in place of one that is kept."""
    kinds: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Which kinds of matrices take part, such as q_proj, self_attn or mlp; the others are frozen. Left out: all."""
    always: tuple[Always, ...] = ()
    """What is trained besides, which is not measured: embeddings, head, norms. A head of tied weights is the embeddings."""
    threshold: Threshold = "edge"
    """How noise is told from signal. edge: by the largest singular value that noise of this size has. published: as the code of
    the paper does, which calls much of pure noise a signal."""

    @field_validator("top_fraction")
    @classmethod
    def _fraction(cls, value: float) -> float:
        if value > 1:
            meant = f"; {value:g} percent are {value / 100:g}" if value <= 100 else ""
            raise ValueError(f"must be more than 0 and at most 1{meant}")
        return value

    @field_validator("kinds", "always")
    @classmethod
    def _distinct(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        twice = [name for name in value if value.count(name) > 1]
        if twice:
            raise ValueError(f"names {twice[0]!r} twice")
        return value

    @model_validator(mode="after")
    def _one_source(self) -> SpectrumConfig:
        if self.model and self.scan:
            raise ValueError("model and scan both say where the scan comes from: set one of them")
        return self
