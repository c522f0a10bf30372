"""What a config of axolotl says of Spectrum: `longline convert axolotl` calls `convert` for those keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from longline.converters import Draft

MODULE = "axolotl.integrations.spectrum."
FRACTION, MODEL = "spectrum_top_fraction", "spectrum_model_name"
PLACE = "plugins.spectrum"
OTHER_SCAN = "scanned here, from weights on this machine, and not read from a file of the paper's authors"


def convert(draft: Draft) -> None:
    """The plugin, if axolotl's is listed; without it axolotl reads none of the keys."""
    listed = [keys for keys, name in draft.items("plugins") if str(name).startswith(MODULE)]
    given = [key for key in (FRACTION, MODEL) if draft.get(key) is not None]
    if not listed:
        for key in given:
            draft.accept(key, "not read: axolotl's plugin is not listed under plugins")
        return
    fraction = draft.number(FRACTION)
    draft.put(f"{PLACE}.top_fraction", 0.5 if fraction is None else fraction, *([FRACTION] if fraction is not None else []))
    if fraction is None:
        draft.add(f"{PLACE}.top_fraction", 0.5, "axolotl's default")
    if draft.get(MODEL) == draft.get("base_model") and MODEL in given:
        draft.accept(MODEL, "the model that is trained, as it is here")
    elif MODEL in given:
        draft.put(f"{PLACE}.model", draft.get(MODEL), MODEL)
    draft.add(
        f"{PLACE}.threshold", "published", "axolotl chooses by the published threshold; edge tells noise from signal better"
    )
    draft.add(f"{PLACE}.always", ["embeddings", "head"], "axolotl trains them always")
    for keys in listed:
        draft.put(PLACE, draft.config["plugins"]["spectrum"], keys, note=OTHER_SCAN)
