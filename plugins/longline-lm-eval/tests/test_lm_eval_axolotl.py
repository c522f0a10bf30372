"""A config of axolotl with its plugin for the harness, by `longline convert`."""

from __future__ import annotations

LISTED = "plugins: [axolotl.integrations.lm_eval.LMEvalPlugin]\n"


def test_tasks_size_model_and_time(convert_axolotl):
    plugins, told = convert_axolotl(
        LISTED
        + "lm_eval_tasks: [arc_easy, hellaswag]\nlm_eval_batch_size: 16\nlm_eval_post_train: false\nlm_eval_model: me/mine\n"
    )
    options = {"tasks": ["arc_easy", "hellaswag"], "batch_size": 16, "post_train": False, "model": "me/mine"}
    assert plugins == {"lm-eval": options}
    assert "no equal" not in told


def test_one_task_in_place_of_a_list(convert_axolotl):
    assert convert_axolotl(LISTED + "lm_eval_tasks: arc_easy\n")[0] == {"lm-eval": {"tasks": ["arc_easy"]}}


def test_without_tasks_there_is_no_plugin(convert_axolotl):
    plugins, told = convert_axolotl(LISTED + "lm_eval_batch_size: 16\n")
    assert plugins is None
    assert "no task is named" in told
