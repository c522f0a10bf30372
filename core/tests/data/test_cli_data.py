"""`longline preview` and `longline preprocess`, as a person calls them."""

import os
import subprocess
import sys

import pytest

from longline.cli import run_cli


@pytest.fixture
def config(chatml, jsonl, chat, tmp_path):
    """Write a config and return its path; options go under `data:`."""
    import yaml

    chatml.save_pretrained(tmp_path / "tokenizer")
    rows = [chat(f"It is {number}.", f"What is {number}?") for number in range(20)]

    def write(**data):
        data = {"train": jsonl(rows), "eval_fraction": 0.2, "max_length": 64, **data}
        path = tmp_path / "config.yaml"
        content = {"model": {"path": str(tmp_path / "tokenizer")}, "data": data, "output_dir": str(tmp_path / "run")}
        path.write_text(yaml.safe_dump(content), encoding="utf-8")
        return str(path)

    return write


def test_preview_marks_what_is_trained(config, capsys):
    assert run_cli(["preview", config(shuffle=False), "--rows", "2"]) == 0
    out = capsys.readouterr().out
    assert "rows.jsonl:1: " in out
    assert "<|im_start|>assistant\n⟦It is 0.<|im_end|>⟧\n" in out
    assert "<|im_start|>user\nWhat is 0?<|im_end|>" in out
    assert out.count("⟦") == 2
    assert "chat (guessed)" in out
    assert "20 rows, 20 kept:" in out
    assert "train: 16 samples" in out
    assert "eval: 4 samples" in out


def test_preview_of_packs_shows_each_sample(config, capsys):
    assert run_cli(["preview", config(packing=True), "--rows", "1"]) == 0
    out = capsys.readouterr().out
    assert "train row 0, sample 1 of 2: " in out
    assert "train row 0, sample 2 of 2: " in out
    assert "packs, " in out
    assert "% full" in out


def test_preview_of_the_evaluation_split_and_an_index(config, capsys):
    path = config()
    assert run_cli(["preview", path, "--split", "eval", "--index", "3", "--rows", "5"]) == 0
    out = capsys.readouterr().out
    assert out.count("⟦") == 1
    assert "eval row 3: " in out
    assert run_cli(["preview", path, "--index", "16"]) == 2
    assert "--index 16: train has 16 rows" in capsys.readouterr().err
    assert run_cli(["preview", path, "--split", "eval", "--set", "data.eval_fraction=null"]) == 2
    assert "there is no evaluation data" in capsys.readouterr().err


def test_preview_in_colour(config):
    environment = {**os.environ, "FORCE_COLOR": "1", "TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8"}
    environment.pop("NO_COLOR", None)
    command = [sys.executable, "-m", "longline", "preview", config(shuffle=False), "--rows", "1"]
    out = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, encoding="utf-8").stdout
    assert "\x1b[1;32mIt is 0.\x1b[0m\x1b[1;35m<|im_end|>\x1b[0m" in out
    assert "\x1b[2mWhat is 0?\x1b[0m" in out or "What is 0?\x1b[0m" in out
    assert "⟦" not in out


def test_brackets_in_rows_are_text_not_markup(config, jsonl, chat, capsys):
    path = jsonl([chat("[bold]four[/bold] [/] [red]"), chat("six.")], "brackets.jsonl")
    assert run_cli(["preview", config(train=path, eval_fraction=None, shuffle=False)]) == 0
    assert "⟦[bold]four[/bold] [/] [red]<|im_end|>⟧" in capsys.readouterr().out


def test_preprocess_fills_the_cache(config, capsys):
    path = config()
    assert run_cli(["preprocess", path]) == 0
    first = capsys.readouterr().out
    assert "kept in " in first
    assert run_cli(["preprocess", path]) == 0
    assert "taken from " in capsys.readouterr().out
    assert run_cli(["preprocess", path, "--set", "data.cache=false"]) == 0
    assert "not kept" in capsys.readouterr().out


def test_bad_rows_stop_or_are_listed(config, jsonl, chat, capsys):
    path = jsonl([chat("four."), {"messages": None}, chat("six.")], "bad.jsonl")
    assert run_cli(["preprocess", config(train=path, eval_fraction=None)]) == 2
    assert "bad.jsonl:2: the messages are null" in capsys.readouterr().err
    assert run_cli(["preprocess", config(train=path, eval_fraction=None, on_bad_row="skip")]) == 0
    out = capsys.readouterr().out
    assert f"  bad: {path}:2: the messages are null" in out
    assert "3 rows, 1 bad, 2 kept" in out
    assert "warning: 1 rows could not be used and were left out" in out


# --- methods that compare answers or generate them ------------------------------------------------

PAIR = {"system": "Be kind.", "question": "Two plus two?", "chosen": "[b]four[/b]", "rejected": "six."}


def test_preview_of_pairs(config, jsonl, capsys):
    path = jsonl([PAIR], "pairs.jsonl")
    assert run_cli(["preview", config(train=path, eval_fraction=None), "--set", "method=dpo"]) == 0
    out = capsys.readouterr().out
    prompt = "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nTwo plus two?<|im_end|>\n<|im_start|>assistant\n"
    chosen, rejected = out.split("train row 0, rejected: ")
    assert f"train row 0, chosen: {path}:1: 40 tokens, 10 trained\n{prompt}⟦[b]four[/b]<|im_end|>⟧\n" in chosen
    assert rejected.startswith(f"{path}:1: 34 tokens, 4 trained\n{prompt}⟦six.<|im_end|>⟧\n")
    assert "preference (guessed), through the chat template\n" in out
    assert "1 rows, 1 pairs kept: 74 tokens, 14 trained (18.9%), 0 lost\n" in out
    assert "train: 1 pairs, 74 tokens, 14 trained (18.9%), longest 40 of 64\n" in out


def test_preview_of_pairs_in_colour(config, jsonl):
    environment = {**os.environ, "FORCE_COLOR": "1", "TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8"}
    environment.pop("NO_COLOR", None)
    path = config(train=jsonl([PAIR], "pairs.jsonl"), eval_fraction=None)
    command = [sys.executable, "-m", "longline", "preview", path, "--set", "method=dpo"]
    out = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, encoding="utf-8").stdout
    assert "\x1b[1;32m[b]four[/b]\x1b[0m\x1b[1;35m<|im_end|>\x1b[0m" in out
    assert "\x1b[1;31msix.\x1b[0m\x1b[1;35m<|im_end|>\x1b[0m" in out
    assert "\x1b[2mTwo plus two?\x1b[0m" in out or "Two plus two?\x1b[0m" in out


def test_preview_of_labelled_answers(config, jsonl, capsys):
    rows = [
        {"prompt": "Two plus two is", "completion": f" {word}.", "label": word == "four"} for word in ("four", "six", "two")
    ]
    path = jsonl(rows, "labelled.jsonl")
    options = config(train=path, eval_fraction=None, shuffle=False)
    assert run_cli(["preview", options, "--set", "method=kto", "--rows", "2"]) == 0
    out = capsys.readouterr().out
    assert f"train row 0, label true: {path}:1: 8 tokens, 3 trained\nTwo plus two is⟦ four.<|im_end|>⟧\n" in out
    assert f"train row 1, label false: {path}:2: 8 tokens, 3 trained\nTwo plus two is⟦ six.<|im_end|>⟧\n" in out
    assert "3 rows, 3 labelled answers kept (1 good, 2 bad): 24 tokens, 9 trained (37.5%), 0 lost\n" in out
    assert "train: 3 labelled answers, " in out


def test_preview_and_preprocess_of_prompts(config, jsonl, capsys):
    path = jsonl([{"question": "Two?", "answer": 2, "metadata": {"why": "[red]√", "none": None}}], "prompts.jsonl")
    options = [config(train=path, eval_fraction=None), "--set", "method=grpo", "--set", "rewards=reasoning_gym"]
    assert run_cli(["preview", *options]) == 0
    out = capsys.readouterr().out
    asked = "<|im_start|>user\nTwo?<|im_end|>\n<|im_start|>assistant\n"
    columns = '  question: "Two?"\n  answer: 2\n  metadata: {"why": "[red]√", "none": null}\n'
    assert f"train row 0: {path}:1: 13 tokens\n{asked}\n{columns}" in out
    assert "1 rows, 1 prompts kept: 13 tokens, 0 lost\n" in out
    assert "train: 1 prompts, 13 tokens, longest 13 of 64\n" in out
    assert "trained" not in out
    assert run_cli(["preprocess", *options]) == 0
    assert "taken from " in capsys.readouterr().out


@pytest.mark.parametrize(("kind", "layout"), [("pair", "pairs"), ("labelled", "labelled"), ("prompt", "prompts")])
def test_the_report_of_each_kind_survives_json(chatml, jsonl, kind, layout):
    import json

    from longline.config.sections import DataSection
    from longline.data import prepare
    from longline.data.kinds import load
    from longline.data.report import DataReport

    rows = {"pairs": [PAIR, {**PAIR, "chosen": "six."}], "prompts": [{"prompt": "a"}, {}],
            "labelled": [{"prompt": "a", "completion": "b", "label": 1}, {}]}[layout]  # fmt: skip
    section = DataSection(train=jsonl(rows), on_bad_row="skip", cache=False)
    report = prepare(section, chatml, kind=load(f"longline.data.kinds.{kind}:{kind.upper()}"), seed=0).report
    read = json.loads(json.dumps(report.to_dict()))
    assert DataReport.from_dict(read) == report
    assert (read["layout"], read["train"]["samples"], read["sources"][0]["bad"]) == (layout, 1, 1)


def test_wrong_data_for_the_method_is_refused(config, jsonl, capsys):
    path = jsonl([PAIR], "pairs.jsonl")
    assert run_cli(["preprocess", config(train=path, eval_fraction=None)]) == 2
    assert "are those of 'preference', which is for cpo, dpo, orpo, reward and simpo, not for sft" in capsys.readouterr().err
    assert run_cli(["preprocess", config(eval_fraction=None), "--set", "method=dpo"]) == 2
    assert "the columns messages can't be used by cpo, dpo, orpo, reward and simpo" in capsys.readouterr().err


def test_check_of_a_preference_config_imports_no_torch(config, jsonl):
    path = config(train=jsonl([PAIR], "pairs.jsonl"), eval_fraction=None)
    code = f"""
import sys
from longline.cli import run_cli
status = run_cli(["check", {path!r}, "--set", "method=dpo"])
assert not {{"torch", "transformers", "pyarrow"}} & set(sys.modules), sorted(sys.modules)
sys.exit(status)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
