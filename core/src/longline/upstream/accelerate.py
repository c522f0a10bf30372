"""Undocumented names of accelerate."""

from __future__ import annotations

from typing import Any

from longline.upstream.assumption import Assumption, of, reads


def turn_on_fsdp(trainer: Any, plugin: Any) -> None:
    """Have a trainer's accelerator shard by `plugin` also on CPU ranks, for which accelerate silently chooses DDP."""
    from accelerate.utils import DistributedType

    state = trainer.accelerator.state
    state.distributed_type, state.fsdp_plugin = DistributedType.FSDP, plugin
    if state.mixed_precision != "no":
        plugin.set_mixed_precision(state.mixed_precision)
    trainer.is_fsdp_enabled = True


_assume = of("accelerate", "1.15.0")

ASSUMPTIONS: tuple[Assumption, ...] = (
    _assume(
        "state.AcceleratorState",
        "a model is prepared by the distributed_type and fsdp_plugin that the state has then, so they can be set before",
        reads("accelerate:Accelerator.distributed_type", says=("return self.state.distributed_type",)),
        reads("accelerate:Accelerator.prepare_model", says=("self.distributed_type == DistributedType.FSDP",)),
        reads("accelerate.utils:FullyShardedDataParallelPlugin.set_mixed_precision", takes=("mixed_precision",)),
    ),
)
