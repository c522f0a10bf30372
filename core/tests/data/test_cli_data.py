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
