"""What each attention implementation can do: the one table that `model.attn_implementation` is checked against.

`packing` says how several samples may share one row without seeing each other:

- `rows`: position ids that restart at each sample are enough, in a batch of any size (transformers builds the block mask);
- `flat`: only when the whole batch is laid out as one row, as variable-length kernels want it;
- None: samples would attend to each other, so packing is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

PackingLayout = Literal["rows", "flat"]


@dataclass(frozen=True, slots=True)
class Attention:
    """One implementation: how it packs, the distribution it needs (None: none beyond torch), the devices it runs on."""

    packing: PackingLayout | None
    library: str | None
    devices: tuple[str, ...]


ATTENTION: dict[str, Attention] = {
    "eager": Attention("rows", None, ("cpu", "cuda", "mps", "xpu")),
    "sdpa": Attention("rows", None, ("cpu", "cuda", "mps", "xpu")),
    "flex_attention": Attention("rows", None, ("cuda",)),
    "flash_attention_2": Attention("flat", "flash-attn", ("cuda",)),
    "flash_attention_3": Attention("flat", "flash-attn-3", ("cuda",)),
    "flash_attention_4": Attention("flat", "flash-attn-4", ("cuda",)),
}

HUB_KERNEL = Attention(None, "kernels", ("cuda",))
"""A kernel named by its hub repository (`owner/name`): nothing is known of it, so nothing is promised."""


# Gemma 2 and gpt-oss have no sdpa, so a fixed default failed on them.
BEST = ("sdpa", "eager")
"""What a model is given when the config is silent: the first of these that its class has. They pack and run alike."""


def lookup(name: str | None) -> Attention | None:
    """The row of the table for `name`, for None what all of `BEST` can; None when no implementation has that name."""
    name = BEST[0] if name is None else name
    return HUB_KERNEL if "/" in name else ATTENTION.get(name)
