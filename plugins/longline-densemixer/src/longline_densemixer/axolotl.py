"""What a config of axolotl says of DenseMixer: `longline convert axolotl` calls `convert` for those keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from longline.converters import Draft

MODULE = "axolotl.integrations.densemixer."
SWITCH = "dense_mixer"


def convert(draft: Draft) -> None:
    """The plugin, unless it is switched off: in axolotl it is on where it is listed."""
    listed = [keys for keys, name in draft.items("plugins") if str(name).startswith(MODULE)]
    switch = draft.get(SWITCH)
    if switch is not None and not listed:
        draft.accept(SWITCH, "axolotl does not read it without its plugin, which the file does not list", mind=bool(switch))
        return
    for keys in (*listed, *([SWITCH] if switch is not None else [])):
        if switch is False:
            draft.accept(keys, "off, as it is here")
        else:
            draft.put("plugins.densemixer", {}, keys)
