"""Where a model stops writing: the tokens that its generation config says end an answer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import GenerationConfig

from longline.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Sequence

FILE = "generation_config.json"


def of(model: Any) -> list[int]:
    """The ids with which a model ends by itself. Raises ModelError for what is no id, since transformers believes the file."""
    own = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    found = own if isinstance(own, list) else [] if own is None else [own]
    if wrong := [token for token in found if type(token) is not int]:
        folder = Path(str(getattr(model, "name_or_path", "")))
        file = folder / (FILE if (folder / FILE).is_file() or not folder.is_dir() else "config.json")
        text = f"{file}: eos_token_id is {str(wrong[0])[:40]!r}, which is no token's id"
        raise ModelError(text, hint="mend it in a copy of the model's folder: one whole number, or a list of them")
    return list(found)


def join(model: Any, tokens: Sequence[int]) -> list[int]:
    """Let a model end with these tokens too; returns those that are new to it."""
    old = of(model)
    new = [token for token in dict.fromkeys(tokens) if token not in old]
    if new and getattr(model, "generation_config", None) is not None:
        model.generation_config.eos_token_id = [*old, *new]
    return new


def write(model: Any, folder: Path) -> None:
    """Put the generation config beside a saved adapter: peft doesn't, and that of the base knows nothing of what was learnt."""
    config = getattr(model, "generation_config", None)
    if config is not None:
        config.to_json_file(folder / FILE)  # unchecked: what the base came with need not be valid


def keep(model: Any, folder: Path) -> None:
    """Take the generation config of a model for one that was loaded as it is, by writing it into a folder and loading it.

    A published one may hold flags without effect, as a temperature without do_sample. transformers saves those only if nothing has
    changed since they were loaded, and a token that joined is a change.
    """
    if getattr(model, "generation_config", None) is not None:
        write(model, folder)
        model.generation_config = type(model.generation_config).from_pretrained(str(folder))


def read(model: Any, folder: Path) -> None:
    """Give a model with its adapter on the generation config that was saved with it: the base has it, so that merging keeps it."""
    if (folder / FILE).is_file():
        model.get_base_model().generation_config = GenerationConfig.from_pretrained(str(folder))
