"""What a config of axolotl says of Grokfast: `longline convert axolotl` calls `convert` for those keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from longline.converters import Draft

MODULE = "axolotl.integrations.grokfast."
ALPHA, LAMB = "grokfast_alpha", "grokfast_lamb"


def convert(draft: Draft) -> None:
    """The plugin, whose `ema` after clipping is axolotl's filter; alpha and lamb that stand in each other's place are put right."""
    listed = [keys for keys, name in draft.items("plugins") if str(name).startswith(MODULE)]
    given = [key for key in (ALPHA, LAMB) if draft.get(key) is not None]
    if not listed:
        for key in given:
            draft.accept(key, "axolotl does not read it without its plugin, which the file does not list", mind=True)
        return
    for keys in listed:
        draft.put("plugins.grokfast", {}, keys)
    alpha, lamb = draft.number(ALPHA), draft.number(LAMB)
    swapped = alpha is not None and lamb is not None and alpha >= 1 > lamb > 0
    note = "alpha and lamb stood in each other's place, as a guide prints them, and make a run explode" if swapped else ""
    for key, value in ((ALPHA, lamb if swapped else alpha), (LAMB, alpha if swapped else lamb)):
        if value is not None:
            draft.put(f"plugins.grokfast.{key.removeprefix('grokfast_')}", value, key, note=note)
