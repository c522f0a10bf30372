"""What a config of axolotl says of Lark: `longline convert axolotl` calls `convert` for the webhook and its secret."""

from __future__ import annotations

from typing import TYPE_CHECKING

from longline_lark.credentials import SECRET_VARIABLE, URL_VARIABLE

if TYPE_CHECKING:
    from longline.converters import Draft

KEYS = {"swanlab_lark_webhook_url": URL_VARIABLE, "swanlab_lark_secret": SECRET_VARIABLE}
"""axolotl's keys, whose values are secrets, to the variables that this plugin reads them from."""


def convert(draft: Draft) -> None:
    """The plugin without its secrets: the config would show them."""
    for key, variable in KEYS.items():
        if draft.get(key) is not None:
            draft.put(
                "plugins.lark", {}, key, note=f"its value is not copied: export {variable}, which is read without being named"
            )
