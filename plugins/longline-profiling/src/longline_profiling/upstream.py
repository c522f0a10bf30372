"""What this plugin needs of trainers beyond their documentation: the methods that it times, by name.

Importing this module imports neither transformers nor trl.
"""

from __future__ import annotations

from longline.upstream import Assumption, reads

_TRAINER = "transformers:Trainer"
_ONLINE = "trl:GRPOTrainer"
OWNERS: dict[str, str] = {
    "training_step": _TRAINER,
    "compute_loss": _TRAINER,
    "compute_ref_log_probs": "trl:DPOTrainer",
    "_clip_grad_norm": _TRAINER,
    "evaluate": _TRAINER,
    "_save_checkpoint": _TRAINER,
    "save_model": _TRAINER,
    "_generate": _ONLINE,
    "_calculate_rewards": _ONLINE,
    "_get_per_token_logps_and_entropies": _ONLINE,
}
"""A class that has the method. Generation and the two after it are RLOO's too."""
METHODS = tuple(OWNERS)
"""What is timed where a trainer has it."""

ASSUMPTIONS: tuple[Assumption, ...] = (
    *(
        Assumption(
            f"{owner.replace(':', '.')}.{name}",
            "transformers 5.23.0, trl 1.16.0",
            "the trainer calls it by this name, on itself",
            reads(f"{owner}.{name}"),
        )
        for name, owner in OWNERS.items()
    ),
    Assumption(
        "transformers.Trainer.get_batch_samples",
        "5.23.0",
        "a step begins with it: it takes the batches of one step from an iterator over those of the epoch",
        reads(f"{_TRAINER}.get_batch_samples", takes=("epoch_iterator", "num_batches"), says=("next(epoch_iterator)",)),
    ),
)
"""Everything undocumented that is wrapped here."""
