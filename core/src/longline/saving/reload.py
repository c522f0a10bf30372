"""A model that was saved, loaded again as anybody would load it, to see that it is the one in memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from longline import model as models
from longline.adapters.start import CONFIG
from longline.config.sections import ModelSection
from longline.errors import TrainingError
from longline.saving import files
from longline.weights import likeness, vocabulary

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from longline.methods.base import Output

LARGEST = 16 * 2**30
"""Bytes of weights beyond which a model is not loaded a second time: reading them would take minutes."""


class NotComparedError(Exception):
    """Why a saved model was not compared; never leaves the core."""


@dataclass(frozen=True, slots=True)
class Saved:
    """A folder of weights, or of an adapter for the base of `section`, whose weights have the type `dtype`."""

    folder: Path
    section: ModelSection
    dtype: str
    output: Output

    def differs(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, seen: torch.Tensor | None, *, autocast: bool = False
    ) -> str | None:
        """How it differs from `model`, the one in memory, of which `seen` are the logits of the sample of `tokenizer`, or None.

        The weights in its files are compared bit for bit; then it is loaded onto the CPU, and its weights are, and its logits.
        `autocast` says whether logits were rounded for other reasons than the type of the weights.

        Raises:
            NotComparedError: loading would take too much memory, or one of the two cannot be asked here.
        """
        count, other = files.compared(model, self.folder)
        if other:
            return f"{_some(other)} not what is in memory, bit for bit"
        told = f"; of what its files hold, {count} tensors are those in memory" if count else ""
        try:
            return self._differs_loaded(model, tokenizer, seen, autocast)
        except NotComparedError as why:
            raise NotComparedError(f"{why}{told}") from why

    def _differs_loaded(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, seen: torch.Tensor | None, autocast: bool
    ) -> str | None:
        if seen is None:
            raise NotComparedError("the model in memory does not answer to bare tokens")
        _require_memory(model)
        try:
            loaded = self._loaded(tokenizer)
        except TrainingError as error:
            return error.message
        if other := files.unlike(model, loaded):
            return f"{_some(other)} not what is in memory, bit for bit, when it is loaded"
        again = likeness.tried(loaded, likeness.sample(tokenizer))
        if again is None:
            raise NotComparedError("loaded again it does not run on the CPU")
        apart = likeness.distance(seen, again)
        return (
            None if apart <= likeness.tolerance(model, autocast=autocast) else f"logits are off by {apart:.2g} of their spread"
        )

    def _loaded(self, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
        adapter = (self.folder / CONFIG).is_file()
        whole = ModelSection(path=str(self.folder.absolute()), trust_remote_code=self.section.trust_remote_code)
        section = self.section.model_copy(update={"attn_implementation": None}) if adapter else whole
        try:
            loaded = self._bare(section)
        except Exception as error:
            if adapter:
                raise NotComparedError(f"its base cannot be loaded a second time: {error}") from error
            raise TrainingError(f"it cannot be loaded: {error}") from error
        if not adapter:
            return loaded
        vocabulary.grow(loaded, tokenizer)
        try:
            return models.put_on(loaded, self.folder, self.section.path)
        except Exception as error:
            raise TrainingError(f"it cannot be loaded: {error}") from error

    def _bare(self, section: ModelSection) -> PreTrainedModel:
        return models.load_model(section, models.model_kwargs(section, self.dtype, self.output), self.output)


def _some(names: list[str]) -> str:
    return f"{names[0]} is" if len(names) == 1 else f"{names[0]} and {len(names) - 1} other weights are"


def _require_memory(model: PreTrainedModel) -> None:
    from psutil import virtual_memory

    size = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    if size > min(LARGEST, virtual_memory().available / 2):
        raise NotComparedError(f"its {size / 2**30:.1f} GiB of weights are too many to be held a second time")
