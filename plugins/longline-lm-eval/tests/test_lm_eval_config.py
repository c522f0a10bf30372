"""The options: what is refused before anything is imported, with the nearest name, and what each task needs."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from longline import Problem
from longline.cli import run_cli
from longline.testing import assert_constructor_is_idle
from longline_lm_eval import names
from longline_lm_eval.plugin import LmEvalPlugin


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"tasks": []}, "plugins.lm-eval.tasks"),
        ({"tasks": ""}, "plugins.lm-eval.tasks"),
        ({}, "plugins.lm-eval.tasks"),
        ({"tasks": ["fish_chioce"]}, "no task, group or tag is called 'fish_chioce' (did you mean 'fish_choice'?)"),
        ({"tasks": "fish_choice,hellaswagg"}, "no task, group or tag is called 'hellaswagg' (did you mean 'hellaswag'?)"),
        ({"tasks": ["shark_*"]}, "no task, group or tag is called 'shark_*'"),
        ({"tasks": ["fish"], "limit": 1.5}, "is a number of rows, or a share below 1"),
        ({"tasks": ["fish"], "limit": 0}, "plugins.lm-eval.limit"),
        ({"tasks": ["fish"], "batch_size": "autom"}, "plugins.lm-eval.batch_size"),
        ({"tasks": ["fish"], "batch_size": 0}, "plugins.lm-eval.batch_size"),
        ({"tasks": ["fish"], "taks": 1}, "plugins.lm-eval.taks: unknown key (did you mean `tasks`?)"),
        ({"tasks": ["fish"], "every": 2}, "there are no checkpoints to evaluate at"),
        ({"tasks": ["fish"], "merged": True}, "there is no adapter to merge"),
    ],
    ids=str,
)
def test_check_refuses_options(run_config, tasks, capsys, options, what):
    config = run_config(plugins=[{"lm-eval": {"include_path": str(tasks), **options}}])
    assert run_cli(["check", str(config)]) in (2, 3)
    assert what in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "more", "what"),
    [
        ({"every": 9}, {"trainer": {"save_strategy": "steps"}}, "the run ends after 5 steps"),
        ({"every": 2, "model": "x"}, {"trainer": {"save_strategy": "steps"}}, "another model is the same at every checkpoint"),
        ({"ranks": "main"}, {"trainer": {"fsdp": "full_shard"}}, "each rank has a part of the weights"),
        ({"merged": True}, {"adapter": {"r": 2}, "trainer": {"fsdp": "full_shard"}}, "an adapter is not added to weights"),
        ({"merged": True}, {"adapter": {"r": 2}, "model": {"quantization": {"load_in_4bit": True}}}, "to quantised weights"),
    ],
    ids=str,
)
def test_check_refuses_what_does_not_go_with_the_run(run_config, tasks, capsys, options, more, what):
    config = run_config(plugins=[{"lm-eval": {"tasks": ["fish"], "include_path": str(tasks), **options}}], **more)
    assert run_cli(["check", str(config)]) == 3
    assert what in capsys.readouterr().err


def test_check_refuses_folders_without_tasks_and_a_model_that_gives_a_score(run_config, tmp_path, preference_rows, capsys):
    nowhere = {"lm-eval": {"tasks": ["fish"], "include_path": str(tmp_path / "nowhere")}}
    data = {"train": [{"path": str(preference_rows)}]}
    assert run_cli(["check", str(run_config(method="reward", data=data, plugins=[nowhere]))]) == 3
    told = capsys.readouterr().err
    assert "nowhere is no folder" in told
    assert "reward makes a model that gives a score" in told


def test_check_imports_nothing_heavy_and_plan_says_what_will_be(run_config, tasks, capsys):
    options = {"tasks": ["fish", "hellaswag", "mmlu"], "include_path": str(tasks), "limit": 0.5, "num_fewshot": 2}
    config = run_config(plugins=[{"lm-eval": options}])
    code = (
        "import sys; from longline.cli import run_cli; code = run_cli(['check', sys.argv[1]])\n"
        "print(code, [name for name in ('torch', 'transformers', 'datasets', 'lm_eval') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(config)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 []"
    assert run_cli(["plan", str(config)]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "evaluates the trained model in memory on fish, hellaswag, mmlu, 2-shot, on the first 50% rows of each" in told


def test_names_of_the_harness_are_found_without_it():
    """None is missed that the harness itself finds, so that none is refused that is there."""
    from lm_eval.tasks import TaskManager

    quickly = names.known((), defaults=True)
    assert set(TaskManager().all_tasks) - quickly == set()
    assert names.unknown(["hellaswag", "mmlu_*", "leaderboard"], []) == {}


def test_a_name_from_another_file_or_in_an_odd_shape_is_found(tmp_path):
    (tmp_path / "base").write_text("task: inherited_fish\n")
    (tmp_path / "one.yaml").write_text("include: base\ndataset_path: json\n")
    (tmp_path / "two.yaml").write_text("{task: odd_fish, dataset_path: json}\n")
    assert names.known((tmp_path,), defaults=False) == {"inherited_fish"}
    assert names.unknown(["inherited_fish", "odd_fish", "odd_fis"], [tmp_path]) == {"odd_fis": "odd_fish"}


def test_the_constructor_does_no_work():
    assert_constructor_is_idle(LmEvalPlugin, {"tasks": ["fish"]})


def test_doctor_says_whose_data_is_here(run_config, tasks, capsys):
    config = run_config(plugins=[{"lm-eval": {"tasks": ["fish", "on_the_hub"], "include_path": str(tasks)}}])
    run_cli(["doctor", str(config)])
    told = " ".join(capsys.readouterr().out.split())
    assert "fish_choice, fish_hooks: their data is here" in told
    assert "on_the_hub: it needs the network" in told


def test_a_schema_has_the_options(capsys):
    assert run_cli(["schema"]) == 0
    assert "num_fewshot" in json.dumps(json.loads(capsys.readouterr().out))


def test_problems_are_of_their_key():
    from longline_lm_eval.config import LmEvalConfig
    from longline_lm_eval.needs import task_problems

    [problem] = task_problems(LmEvalConfig(tasks=["hellaswagg"]))
    assert problem == Problem(
        "no task, group or tag is called 'hellaswagg'", path="plugins.lm-eval.tasks", hint="did you mean 'hellaswag'?"
    )
