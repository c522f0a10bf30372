"""Real runs of a tiny model: what is evaluated, when, that it is what the harness's own command says, and what it leaves alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from longline.cli import run_cli
from longline.errors import LonglineError
from longline.plugins import HookError
from longline.testing import MemoryTracker
from longline_lm_eval.config import LmEvalConfig

ADAPTER = {"type": "lora", "r": 4, "target_modules": ["q_proj", "v_proj"]}
TRAINER = {"max_steps": 4, "learning_rate": 0.02, "save_strategy": "steps", "save_steps": 1}
ALL = ["fish", "fish_text"]


def plugin(tasks: Path, *names: str, **options) -> dict:
    return {"lm-eval": {"tasks": list(names), "include_path": str(tasks), **options}}


def read(folder: Path, which: str = "model") -> dict:
    return json.loads((folder / "lm_eval" / which / "results.json").read_text())


def numbers(results: dict) -> dict[str, dict[str, float]]:
    """Values by task and metric."""
    kept = {
        name: {key: value for key, value in found.items() if "," in key and isinstance(value, float)}
        for name, found in results["results"].items()
    }
    assert kept
    return kept


def close(found: dict, expected: dict) -> bool:
    flat = [{(name, key): value for name, inner in side.items() for key, value in inner.items()} for side in (found, expected)]
    return flat[0] == pytest.approx(flat[1], rel=1e-5, abs=1e-9)


def weights(folder: Path) -> dict:
    found = load_file(next((folder / "model").glob("*.safetensors")))
    return {name: value.numpy().tobytes() for name, value in found.items()}


def test_a_run_is_evaluated_at_checkpoints_and_in_the_end_as_the_harness_would_its_files(
    run_longline, tasks, tiny_model_dir, tmp_path, capfd
):
    options = {"every": 2, "log_samples": True, "batch_size": 4}
    tracker = MemoryTracker()
    shared = {"adapter": ADAPTER, "trainer": TRAINER}
    plain = run_longline(**shared, output_dir=str(tmp_path / "plain"))
    outcome = run_longline(plugins=[plugin(tasks, *ALL, "on_the_hub", **options), tracker], **shared)

    # What was trained is not touched.
    assert weights(outcome.output_dir) == weights(plain.output_dir)
    losses = [[event["loss"] for event in run.log if "loss" in event] for run in (plain, outcome)]
    assert losses[0] == losses[1]

    # Where it is told.
    found = read(outcome.output_dir)
    steps = [event["step"] for event in outcome.log if "lm_eval/fish_text/bits_per_byte" in event]
    assert steps == [2, 4]
    last = {name: value for event in outcome.log for name, value in event.items() if name.startswith("lm_eval/")}
    assert last["lm_eval/fish_choice/acc"] == found["results"]["fish_choice"]["acc,none"]
    assert last["lm_eval/fish/acc"] == found["results"]["fish"]["acc,none"]
    assert outcome.manifest["summary"]["metrics"].items() >= last.items()
    assert {name for _, logs in tracker.logs for name in logs} >= last.keys()
    assert [(table.name, table.step) for table in tracker.tables] == [("lm_eval", 2), ("lm_eval", 4)]
    assert {row[0] for row in tracker.tables[-1].rows} == {"fish", "fish_choice", "fish_hooks", "fish_text"}
    assert [alert.title for alert in tracker.alerts] == ["a task is left out"]
    assert "on_the_hub" in tracker.alerts[0].text
    assert read(outcome.output_dir, "checkpoint-2")["results"]["fish_text"] != found["results"]["fish_text"]
    assert not (outcome.output_dir / "lm_eval" / "checkpoint-4").exists(), "it is what is evaluated when it is saved"
    told = capfd.readouterr()
    assert "fish_choice  0       13    acc" in told.out
    assert not any(word in told.out + told.err for word in ("fatal:", "it/s", "auto", "Passed an already", "bootstrapping"))

    # The harness's own command, on what was saved.
    command = ["run", "--model", "hf", "--model_args", f"pretrained={tiny_model_dir},peft={outcome.output_dir / 'model'}"]
    words = ["--tasks", ",".join(ALL), "--include_path", tasks, "--batch_size", "4", "--device", "cpu", "--log_samples"]
    done = subprocess.run(
        [sys.executable, "-m", "lm_eval", *command, *map(str, words), "--output_path", str(tmp_path / "own")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    [path] = (tmp_path / "own").rglob("results_*.json")
    own = json.loads(path.read_text())
    assert close(numbers(found), numbers(own))
    assert found.keys() == own.keys()
    for key in ("n-shot", "n-samples", "higher_is_better", "versions", "group_subtasks", "task_hashes"):
        assert found[key] == own[key], key
    assert found["results"].keys() == own["results"].keys()
    assert found["config"].keys() == own["config"].keys() - {"peft_sha"}
    for name in ("fish_choice", "fish_hooks", "fish_text"):
        kept = [json.loads(line) for line in (outcome.output_dir / f"lm_eval/model/samples_{name}.jsonl").open()]
        [other] = path.parent.glob(f"samples_{name}_*.jsonl")
        theirs = [json.loads(line) for line in other.open()]
        assert [row.keys() for row in kept] == [row.keys() for row in theirs]
        assert [(row["doc_id"], row["prompt_hash"]) for row in kept] == [(row["doc_id"], row["prompt_hash"]) for row in theirs]

    # And ours.
    assert run_cli(["lm-eval", str(outcome.output_dir), "--output", str(tmp_path / "again")]) == 0
    assert close(numbers(json.loads((tmp_path / "again" / "results.json").read_text())), numbers(found))
    assert "the run's trained model" in capfd.readouterr().out


@pytest.mark.parametrize("adapter", [None, ADAPTER], ids=["all weights", "lora"])
def test_a_run_in_mixed_precision_is_measured_as_what_it_saves(run_longline, tasks, capsys, adapter):
    more = {"adapter": adapter} if adapter else {}
    outcome = run_longline(plugins=[plugin(tasks, *ALL)], trainer={"max_steps": 2, "learning_rate": 0.02, "bf16": True}, **more)
    in_memory = numbers(read(outcome.output_dir))
    assert run_cli(["lm-eval", str(outcome.output_dir)]) == 0
    assert close(in_memory, numbers(read(outcome.output_dir)))


def test_merged_in_memory_is_the_same_model_and_comes_off_again_bit_for_bit(run_longline, tasks, tmp_path):
    shared = {"adapter": ADAPTER, "trainer": TRAINER}
    on = run_longline(plugins=[plugin(tasks, "fish_text", every=2)], **shared, output_dir=str(tmp_path / "on"))
    merged = run_longline(plugins=[plugin(tasks, "fish_text", every=2, merged=True)], **shared)
    assert weights(merged.output_dir) == weights(on.output_dir)
    assert [event["loss"] for event in merged.log if "loss" in event] == [event["loss"] for event in on.log if "loss" in event]
    for which in ("checkpoint-2", "model"):
        assert close(numbers(read(merged.output_dir, which)), numbers(read(on.output_dir, which)))


def test_a_task_that_fails_takes_nothing_else_along(run_longline, tasks, broken):
    tracker = MemoryTracker()
    outcome = run_longline(plugins=[plugin(tasks, broken, "fish_text"), tracker], trainer={"max_steps": 1})
    assert outcome.result.status == "completed"
    assert read(outcome.output_dir)["results"].keys() == {"fish_text"}
    [alert] = tracker.alerts
    assert (alert.level, alert.text) == ("error", "lm-eval on broken: ZeroDivisionError: no hooks")
    strict = {**plugin(tasks, broken, "fish_text", strict=True)["lm-eval"], "on_error": "raise"}
    with pytest.raises(HookError, match="no result of broken"):
        run_longline(plugins=[{"lm-eval": strict}], trainer={"max_steps": 1}, overwrite=True)
    assert (outcome.output_dir / "model" / "model.safetensors").is_file()
    assert read(outcome.output_dir)["results"].keys() == {"fish_text"}


def test_a_signal_ends_it_and_leaves_the_model_and_what_is_done(run_longline, tasks, broken):
    (tasks / "faults.py").write_text(
        "import signal\ndef broken(doc, results):\n    signal.raise_signal(signal.SIGINT)\n    return {'exact_match': 0}\n"
    )
    outcome = run_longline(plugins=[plugin(tasks, "fish_text", broken, "fish")], trainer={"max_steps": 1})
    assert (outcome.result.status, outcome.result.exit_code) == ("interrupted", 130)
    assert read(outcome.output_dir)["results"].keys() == {"fish_text"}
    assert (outcome.output_dir / "model" / "model.safetensors").is_file()


def test_a_group_without_one_of_its_tasks_has_no_sum(run_longline, tasks, broken):
    (tasks / "more.yaml").write_text("group: more\ntask: [broken, fish_choice]\naggregate_metric_list: [{metric: acc}]\n")
    tracker = MemoryTracker()
    outcome = run_longline(plugins=[plugin(tasks, "more"), tracker], trainer={"max_steps": 1})
    assert read(outcome.output_dir)["results"].keys() == {"fish_choice"}
    assert [alert.text for alert in tracker.alerts][1:] == ["lm-eval on more: without broken it has no sum"]


def test_of_a_group_that_needs_the_network_the_others_are_asked(run_longline, tasks):
    (tasks / "more.yaml").write_text("group: more\ntask: [on_the_hub, fish_choice]\naggregate_metric_list: [{metric: acc}]\n")
    tracker = MemoryTracker()
    outcome = run_longline(plugins=[plugin(tasks, "more", limit=2), tracker], trainer={"max_steps": 1})
    assert read(outcome.output_dir)["results"].keys() == {"fish_choice"}
    assert [alert.text.split(":")[0] for alert in tracker.alerts] == [
        "lm-eval cannot ask more",
        "lm-eval cannot ask on_the_hub",
    ]


@pytest.mark.parametrize(
    ("names", "options", "what"),
    [
        (["on_the_hub"], {}, "no task is left to evaluate on: on_the_hub: it needs the network"),
        (["fish", "on_the_hub"], {"strict": True}, "the task 'on_the_hub' needs the network"),
        (["fish", "fish_choice"], {}, "the task 'fish_choice' is asked for twice"),
        (["lost"], {}, "the task 'lost' cannot be loaded: FileNotFoundError"),
    ],
)
def test_what_cannot_be_asked_is_an_error_before_anything_is_trained(run_longline, tasks, names, options, what):
    text = (tasks / "fish_choice.yaml").read_text()
    (tasks / "lost.yaml").write_text(text.replace("fish_choice.jsonl", "gone.jsonl").replace("fish_choice", "lost"))
    with pytest.raises(LonglineError, match=what) as caught:
        run_longline(plugins=[plugin(tasks, *names, **options)])
    assert "pre_trainer_args" in str(caught.value)


def test_the_options_reach_the_harness(run_longline, tasks, tiny_model_dir, tmp_path):
    """Each changes what is asked, as its samples show; the tokenizer's template stands around the questions."""
    options = {"limit": 3, "apply_chat_template": True, "gen_kwargs": {"max_gen_toks": 2}, "log_samples": True, "batch_size": 2}
    output = tmp_path / "elsewhere"
    run_longline(plugins=[plugin(tasks, "fish_hooks", **options, output=str(output))], trainer={"max_steps": 1})
    rows = [json.loads(line) for line in (output / "model" / "samples_fish_hooks.jsonl").open()]
    assert len(rows) == 3
    assert "<|im_start|>user\nHow many hooks for 0 cod?<|im_end|>" in rows[0]["arguments"]["gen_args_0"]["arg_0"]
    assert rows[0]["arguments"]["gen_args_0"]["arg_1"]["max_gen_toks"] == 2
    results = json.loads((output / "model" / "results.json").read_text())
    assert results["config"]["limit"] == 3
    assert results["chat_template_sha"]


def test_another_model_in_place_of_the_trained_one(run_longline, tasks, tiny_model_dir, tmp_path, capsys):
    outcome = run_longline(plugins=[plugin(tasks, "fish_text", model=str(tiny_model_dir))], trainer=TRAINER)
    assert (
        run_cli(
            [
                "lm-eval",
                str(tiny_model_dir),
                "--tasks",
                "fish_text",
                "--include-path",
                str(tasks),
                "--output",
                str(tmp_path / "o"),
            ]
        )
        == 0
    )
    assert close(numbers(read(outcome.output_dir)), numbers(json.loads((tmp_path / "o" / "results.json").read_text())))
    capsys.readouterr()
    assert run_cli(["lm-eval", str(outcome.output_dir)]) == 0
    assert "`model` of the plugin's options" in capsys.readouterr().out


def test_a_tokenizer_without_a_chat_template_is_refused_early(run_longline, tasks):
    template = {"apply_chat_template": "no_such_template"}
    with pytest.raises(LonglineError, match="has no template 'no_such_template': it has one, without a name"):
        run_longline(plugins=[plugin(tasks, "fish", **template)])


def test_the_command_chooses_between_run_checkpoint_and_base(run_longline, run_config, tasks, capsys):
    config = run_config(plugins=[plugin(tasks, "fish_text", post_train=False)], trainer=TRAINER)
    found = {}
    assert run_cli(["lm-eval", str(config)]) == 0
    assert "the model as it came" in capsys.readouterr().out
    outcome = run_longline(config)
    assert not (outcome.output_dir / "lm_eval").exists()
    for words in ([str(config)], [str(outcome.output_dir), "--checkpoint", "checkpoint-2"], [str(config), "--base"]):
        assert run_cli(["lm-eval", *words]) == 0, words
    for which in ("model", "checkpoint-2", "base"):
        found[which] = read(outcome.output_dir, which)["results"]["fish_text"]["bits_per_byte,none"]
    assert len(set(found.values())) == 3
    assert "the run's trained model" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "code", "what"),
    [
        (["--tasks", "fish_txt"], 2, "no task, group or tag is called 'fish_txt' (did you mean 'fish_text'?)"),
        ([], 2, "no task is named"),
        (["--tasks", "fish_text", "--limit", "-1"], 2, "--limit"),
        (["--tasks", "fish_text", "--batch-size", "many"], 2, "--batch-size: is a number from 1, `auto`, or `auto:N`"),
        (["--tasks", "fish_text", "--merged"], 1, "merged: this model has no adapter"),
        (["--tasks", "fish_text", "--output", "/proc/nowhere"], 2, "cannot write /proc/nowhere"),
        (["--tasks", "fish_text", "--checkpoint", "checkpoint-1"], 2, "is not a run folder"),
        (["--tasks", "broken,fish_text"], 0, "error: broken has no result: ZeroDivisionError: no hooks"),
        (["--tasks", "broken,fish_text", "--strict"], 1, "error: broken has no result"),
        (["--tasks", "broken"], 1, "error: broken has no result"),
        (["--tasks", "on_the_hub,fish_text"], 0, "the task on_the_hub is left out: it needs the network"),
        (["--tasks", "on_the_hub,fish_text", "--strict"], 2, "needs the network"),
    ],
    ids=str,
)
def test_the_command_says_what_is_wrong(tiny_model_dir, tasks, broken, capsys, words, code, what):
    assert run_cli(["lm-eval", str(tiny_model_dir), "--include-path", str(tasks), *words]) == code
    assert what in capsys.readouterr().err


def test_options_are_those_of_the_config_with_those_of_the_command_over_them(tasks):
    assert LmEvalConfig(tasks="a, b", include_path=tasks, limit=5.0).model_dump(include={"tasks", "include_path", "limit"}) == {
        "tasks": ["a", "b"],
        "include_path": [tasks],
        "limit": 5,
    }
