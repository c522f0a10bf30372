"""What a config of axolotl says of the harness: `longline convert axolotl` calls `convert` for those keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from longline.converters import Draft

MODULE = "axolotl.integrations.lm_eval."
KEYS = {
    "lm_eval_tasks": "tasks",
    "lm_eval_batch_size": "batch_size",
    "lm_eval_post_train": "post_train",
    "lm_eval_model": "model",
}
"""axolotl's keys to the options of this plugin."""
HERE = "plugins.lm-eval"
AFTER = "axolotl saves first and loads what it saved; here the model in memory is asked"


def convert(draft: Draft) -> None:
    """The plugin with its tasks; without any there is nothing to evaluate."""
    listed = [keys for keys, name in draft.items("plugins") if str(name).startswith(MODULE)]
    tasks = draft.get("lm_eval_tasks")
    if not tasks:
        for key in (*listed, *(key for key in KEYS if draft.get(key) is not None)):
            draft.accept(key, "no task is named", mind=True)
        return
    draft.put(f"{HERE}.tasks", [tasks] if isinstance(tasks, str) else tasks, "lm_eval_tasks")
    for key, option in KEYS.items():
        if option != "tasks" and draft.get(key) is not None:
            draft.put(f"{HERE}.{option}", draft.get(key), key)
    for keys in listed:
        draft.put(HERE, draft.config["plugins"]["lm-eval"], keys, note=AFTER)
