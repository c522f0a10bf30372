"""Names in `trainer:` that match nothing in the model: the classes of layers that FSDP wraps, the modules of some optimizers."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from longline.adapters.names import Names, hint
from longline.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from transformers import PreTrainedModel

    from longline.config.loader import LoadedConfig

_Found = tuple[tuple[str, ...], str, str]


def refuse_unmatched(loaded: LoadedConfig, model: PreTrainedModel) -> None:
    """Hold the names in `trainer:` against a model.

    Raises:
        ConfigError: some names match nothing; it lists all.
    """
    trainer = loaded.config.trainer
    found = [*_layers(trainer, model), *_modules(trainer.get("optim_target_modules") or (), model)]
    if found:
        raise ConfigError([loaded.problem(text, "trainer", *keys, hint=what) for keys, text, what in found])


def _layers(trainer: Mapping[str, object], model: PreTrainedModel) -> Iterator[_Found]:
    options = trainer.get("fsdp_config") if trainer.get("fsdp") else None
    classes = {type(module).__name__ for module in model.modules()}
    likely = {name for name in classes if name.endswith(("Layer", "Block"))} or classes
    for key, value in options.items() if isinstance(options, dict) else ():
        wanted = value if key.removeprefix("fsdp_") == "transformer_layer_cls_to_wrap" else ()
        for name in [wanted] if isinstance(wanted, str) else wanted:
            if name not in classes:
                what = did_you_mean(name, likely, f"there are {', '.join(sorted(likely))}")
                yield ("fsdp_config", key), f"the model has no {name}", what


def _modules(wanted: object, model: PreTrainedModel) -> Iterator[_Found]:
    """As transformers matches them: a regular expression, or a list of those and of parts of names."""
    if not wanted or (isinstance(wanted, str) and wanted.replace("_", "-") == "all-linear"):
        return
    names = Names.of(model)
    for name in [wanted] if isinstance(wanted, str) else wanted:  # type: ignore[attr-defined]
        inside = not isinstance(wanted, str)
        try:
            matches = any((inside and name in module) or re.fullmatch(name, module) for module in names.modules)
        except re.error:
            matches = False
        if not matches:
            yield ("optim_target_modules",), f"no module is called {name!r}", hint(name, names.linear, None)
