"""What optimizers and schedules refuse only when they are made: here on one weight, before a model is loaded."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from longline.methods.base import refusals


def try_optimizer(args: Any) -> None:
    """Make the optimizer and its schedule. Raises ConfigError where a library that they need is missing, or a value is wrong."""
    import torch
    from transformers import Trainer, get_scheduler

    model: Any = torch.nn.Module()
    model.weight = torch.nn.Parameter(torch.zeros(1, 1))  # a ready layer would draw from the generator of the run
    # Some name modules of the real model, which this one has not.
    with refusals(f"optim: {args.optim.value}"), suppress(*[ValueError] if args.optim_target_modules else ()):
        optimizer, options = Trainer.get_optimizer_cls_and_kwargs(args, model)
        if getattr(optimizer, "__module__", "").startswith("torch.optim"):  # others may need a GPU
            optimizer(model.parameters(), **options)
    with refusals(f"lr_scheduler_type: {args.lr_scheduler_type.value}"):
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        get_scheduler(args.lr_scheduler_type, optimizer, 1, 10, args.lr_scheduler_kwargs)
