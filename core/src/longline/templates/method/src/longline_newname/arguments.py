"""The class that `trainer:` gives the fields of: a check reads this source, a run imports it."""

from __future__ import annotations

from dataclasses import dataclass, field

from transformers import TrainingArguments


@dataclass
class NewNameArguments(TrainingArguments):
    """Those of transformers, and what the loss has."""

    beta: float = field(default=0.1, metadata={"help": "How much a nat of entropy counts in the loss."})
