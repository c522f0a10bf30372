"""Configs of axolotl. Read in axolotl 0.19: its schema for the keys and defaults, its builders for what they do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from longline.converters.axolotl import data, elsewhere, methods, model, processes, training
from longline.errors import ConfigError, Problem

if TYPE_CHECKING:
    from longline.converters.axolotl.rules import Rule
    from longline.converters.draft import Draft

SECTIONS: dict[str, dict[str, Rule]] = {
    "Method": methods.RULES,
    "Model, tokenizer and adapter": model.RULES,
    "Data": data.RULES,
    "Training": training.RULES,
    "Several processes": processes.RULES,
    "Elsewhere, and plugins": elsewhere.RULES,
}
"""Every key that is known, by the part of the config that it belongs to; the documentation lists them."""
RULES: dict[str, Rule] = {key: rule for rules in SECTIONS.values() for key, rule in rules.items()}

STRANGE = "a value that axolotl takes for this key"


def convert(draft: Draft) -> None:
    """Translate a config of axolotl. Raises ConfigError for a file that is none."""
    if draft.get("base_model") is None:
        ours = isinstance(draft.get("model"), dict) and "data" in draft.root.value
        hint = "it looks like a config of Longline already" if ours else "every config of axolotl names its model so"
        raise ConfigError([Problem("there is no `base_model`", where=str(draft.root.at), hint=hint)])
    draft.known |= {name for name in RULES if "*" not in name} | {"plugins"}
    for part in (methods, model, data, training, processes):
        part.translate(draft)
    elsewhere.plugins(draft)
    for (key, *_), _ in list(draft.items()):
        rule = RULES.get(str(key)) or elsewhere.rule_of(str(key))
        if rule is None or draft.get(key) is None or draft.spoken(str(key)):
            continue
        if rule.act:
            rule.act(draft, str(key))
        else:
            draft.refuse(str(key), STRANGE)
