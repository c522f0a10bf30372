"""What a config of axolotl says of tables of completions: `longline convert axolotl` calls `convert` for those keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from longline.converters import Draft

SWITCH = "swanlab_log_completions"
OPTIONS = {"swanlab_completion_log_interval": "every", "swanlab_completion_max_buffer": "max_rows"}
"""axolotl's keys, whose tables go to SwanLab alone, to the options of this plugin."""


def convert(draft: Draft) -> None:
    """The plugin with its options, for methods that compare or draw answers; any tracker shows its tables."""
    given = [key for key in (SWITCH, *OPTIONS) if draft.get(key) is not None]
    compares = draft.get("rl") is not None or draft.get("reward_model") is True
    if draft.get(SWITCH) is False or not compares:
        for key in given:
            draft.accept(key, "off, as it is here" if compares else "there are no completions: sft learns rows as they are")
        return
    if draft.get(SWITCH) is not None:
        draft.put("plugins.completions", {}, SWITCH)
    for key, option in OPTIONS.items():
        if draft.get(key) is not None:
            draft.put(f"plugins.completions.{option}", draft.get(key), key)
