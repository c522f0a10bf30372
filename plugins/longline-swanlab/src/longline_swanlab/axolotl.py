"""What a config of axolotl says of SwanLab: `longline convert axolotl` calls `convert` for the keys that are SwanLab's."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from longline.converters import Draft

MODULE = "axolotl.integrations.swanlab."
OPTIONS = {
    "swanlab_project": "project",
    "swanlab_experiment_name": "experiment_name",
    "swanlab_description": "description",
    "swanlab_mode": "mode",
    "swanlab_workspace": "workspace",
    "swanlab_log_model": "log_model",
    "swanlab_web_host": "web_host",
    "swanlab_api_host": "api_host",
}
"""axolotl's keys to the options of this plugin."""
KEY = "swanlab_api_key"


def convert(draft: Draft) -> None:
    """The plugin with its options; the key is left to the environment, where swanlab itself looks for it."""
    listed = [keys for keys, name in draft.items("plugins") if str(name).startswith(MODULE)]
    given = [key for key in ("use_swanlab", *OPTIONS, KEY) if draft.get(key) is not None]
    used = draft.get("use_swanlab")
    if used is False or not (used or listed or draft.get("swanlab_project")):
        for keys in (*listed, *given):
            draft.accept(keys, "not used: `use_swanlab` is not on")
        return
    draft.put("plugins.swanlab", {}, *listed, *(["use_swanlab"] if used else []))
    for key, option in OPTIONS.items():
        value = draft.get(key)
        if value is not None:
            draft.put(f"plugins.swanlab.{option}", "online" if (option, value) == ("mode", "cloud") else value, key)
    if draft.get(KEY) is not None:
        draft.accept(KEY, "not copied: export SWANLAB_API_KEY, which is read without being named", mind=True)
