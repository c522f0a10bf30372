"""The options of the plugin, as they stand under its name in a config."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from longline import PluginConfig

Impl = Literal["auto", "cce", "torch_compile", "chunked"]
ELSEWHERE = ("accum_e_fp32", "accum_c_fp32", "filter_e_grad", "filter_c_grad", "use_kahan", "return_lse")
"""Options of cut-cross-entropy outside the package index; no release there takes them."""


class CceConfig(PluginConfig):
    """Which arithmetic computes the loss, and how."""

    impl: Impl = "auto"
    """`cce`: the Triton kernels of cut-cross-entropy, for CUDA of capability 8.0 and float16 or bfloat16. `torch_compile`: the
    same library through torch.compile. `chunked`: PyTorch alone, some tokens at a time, exact, everywhere. `auto`: cce where it
    can be, otherwise chunked; the table at the start says which and why."""
    filter_eps: Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)] | Literal["auto", "high"] | None = "high"
    """For `cce`: gradients of tokens less probable than this are left out. `auto` and `high` are what the number's type cannot
    hold anyway; null computes all of them. 25.1.1 treats `auto` and `high` alike."""
    chunk_tokens: Annotated[int, Field(strict=True, ge=1)] | None = None
    """For `chunked`: how many tokens have logits at the same time. Left out: as many as 64 MiB of float32 logits hold."""

    @model_validator(mode="before")
    @classmethod
    def _of_the_release(cls, values: Any) -> Any:
        named = [name for name in ELSEWHERE if isinstance(values, dict) and name in values]
        if named:
            raise ValueError(f"{', '.join(named)}: cut-cross-entropy 25.1.1 has no such setting; remove it")
        return values

    @model_validator(mode="after")
    def _belong_together(self) -> CceConfig:
        for option, impl in (("filter_eps", "cce"), ("chunk_tokens", "chunked")):
            if self.asks(option) and self.impl not in ("auto", impl):
                raise ValueError(f"{option} belongs to impl: {impl}, not to impl: {self.impl}; remove one of them")
        return self

    def asks(self, option: str) -> bool:
        """Whether the config sets an option to something else than its default, which the saved config of a run has written out."""
        return bool(getattr(self, option) != type(self).model_fields[option].default)
