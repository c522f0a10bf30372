"""`longline train RUN/config.yaml` from any folder repeats the run: every path that a config may hold, with every method."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from longline.cli import run_cli
from longline.testing import chat, preferences
from longline.testing.tiny import CHATML

FORMS = {"sft": "chat", **dict.fromkeys(("dpo", "orpo", "cpo", "simpo", "reward"), "preference"), "kto": "unpaired"}
ANSWERING = ("grpo", "rloo")
REWARD = """
from pathlib import Path

from helper import length

WORDS = (Path(__file__).parent / "words.txt").read_text()

def score(completions, words, **_):
    return [length(text) + len(WORDS) + len(Path(words).read_text()) for text in completions]
"""


@pytest.fixture
def here(tiny_model_dir, tmp_path, monkeypatch) -> Path:
    """A working directory in which everything is named by relative paths."""
    forget()
    folder = tmp_path / "here"
    for name in ("conf", "data", "there"):
        (folder / name).mkdir(parents=True)
    shutil.copytree(tiny_model_dir, folder / "models" / "base")
    (folder / "conf" / "template.jinja").write_text(CHATML.replace("'<|im_end|>' + '\n'", "'<|im_end|>' + '\n\n'"))
    (folder / "conf" / "judge.py").write_text(REWARD)
    (folder / "conf" / "helper.py").write_text("def length(text):\n    return len(text)\n")
    (folder / "conf" / "words.txt").write_text("words")
    pairs = preferences(8)
    rows = {
        "chat": chat(8),
        "preference": pairs,
        "unpaired": [
            {"prompt": row["prompt"], "completion": row["chosen"], "label": at % 2 == 0} for at, row in enumerate(pairs)
        ],
        "prompts": [{"prompt": row["prompt"]} for row in pairs],
    }
    for form, listed in rows.items():
        (folder / "data" / f"{form}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in listed))
    monkeypatch.chdir(folder)
    return folder


def config(method: str, **more: Any) -> Path:
    form = FORMS.get(method, "prompts")
    trainer = {"max_steps": 2, "per_device_train_batch_size": 2, "logging_steps": 1, "save_strategy": "no", "use_cpu": True}
    given = {
        "method": method,
        "model": {"path": "models/base", "dtype": "float32", "tokenizer": {"chat_template": "conf/template.jinja"}},
        "data": {
            "train": [{"path": f"data/{form}.jsonl", "format": form}],
            "eval": [{"path": f"data/{form}*.jsonl", "format": form}],
            "cache_dir": "cache",
            "max_length": 96,
        },
        "trainer": trainer,
        "output_dir": "runs/one",
    }
    if method in ANSWERING:
        given["rewards"] = [{"function": "judge:score", "options": {"words": "conf/words.txt"}}]
        trainer |= {"num_generations": 2, "max_completion_length": 4}
    path = Path("conf/train.yaml")
    path.write_text(yaml.safe_dump({**given, **more}))
    return path


def losses(run: Path) -> list[dict]:
    kept = ("loss", "reward", "kl", "eval_loss", "grad_norm", "num_tokens")
    return [{name: event[name] for name in kept if name in event} for event in map(json.loads, (run / "log.jsonl").open())]


def forget() -> None:
    """Import modules anew, as another process would."""
    for module in ("judge", "helper"):
        sys.modules.pop(module, None)


@pytest.mark.parametrize("adapter", [None, {"type": "lora", "r": 2}], ids=["full", "lora"])
@pytest.mark.parametrize("method", [*FORMS, *ANSWERING])
def test_the_saved_config_repeats_the_run_from_any_folder(here, method, adapter):
    first, again = here / "runs" / "one", here / "runs" / "two"
    assert run_cli(["train", str(config(method, **({"adapter": adapter} if adapter else {})))]) == 0
    forget()
    os.chdir(here / "there")
    saved = "../runs/one/config.yaml"
    assert run_cli(["check", saved]) == 0
    assert run_cli(["train", saved, "--set", "output_dir=../runs/two"]) == 0
    assert losses(first) == losses(again)
    if adapter:
        kept = json.loads((first / "model" / "adapter_config.json").read_text())
        assert kept["base_model_name_or_path"] == str(here / "models" / "base")


@pytest.mark.parametrize("method", ["dpo", "grpo"])
def test_a_run_is_resumed_from_any_folder(here, method):
    written = config(method, adapter={"type": "lora", "r": 2})
    saving = ["--set", "trainer.save_strategy=steps", "--set", "trainer.save_steps=1"]
    assert run_cli(["train", str(written), *saving]) == 0
    forget()
    os.chdir(here / "there")
    assert run_cli(["train", "../runs/one/config.yaml", "--resume", "--set", "trainer.max_steps=3"]) == 0
    assert [event["step"] for event in map(json.loads, (here / "runs/one/log.jsonl").open()) if "loss" in event] == [1, 2, 3]


@pytest.mark.parametrize("place", ["conf", "."], ids=["beside the config", "in the working directory"])
def test_another_process_repeats_the_run(here, place):
    """`python -m longline` looks for modules in the working directory, too."""
    for name in ("judge.py", "helper.py", "words.txt"):
        if place != "conf":
            (here / "conf" / name).rename(here / place / name)
    written = config("rloo", rewards=[{"function": "judge:score", "options": {"words": f"{place}/words.txt"}}])
    commands = [["train", str(written)], ["train", "../runs/one/config.yaml", "--set", "output_dir=../runs/two"]]
    for folder, command in zip((here, here / "there"), commands, strict=True):
        done = subprocess.run(
            [sys.executable, "-m", "longline", *command], cwd=folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    assert losses(here / "runs" / "one") == losses(here / "runs" / "two")


@pytest.mark.parametrize(
    ("function", "told"),
    [
        ("jugde:score", "there is no module jugde (it is looked for in {}/conf and among what is installed)"),
        ("judge.sub:score", "there is no module judge.sub"),
        ("reasoning_jym", "did you mean 'reasoning_gym'?"),
    ],
)
def test_check_finds_a_reward_function_that_is_not_there(here, capsys, function, told):
    assert run_cli(["check", str(config("grpo", rewards=[{"function": function}]))]) == 2
    assert told.format(here) in capsys.readouterr().err


def test_a_model_is_used_when_its_reward_function_is_gone(here, capsys):
    assert run_cli(["train", str(config("grpo"))]) == 0
    (here / "conf" / "judge.py").unlink()
    forget()
    assert run_cli(["generate", "runs/one", "--prompt", "hooks", "--max-new-tokens", "2"]) == 0
    assert run_cli(["train", "runs/one/config.yaml", "--overwrite"]) == 2
    assert "there is no module judge" in capsys.readouterr().err


def test_a_function_is_looked_for_in_its_folder(here):
    elsewhere = [{"function": "judge:score", "folder": "conf", "options": {"words": "conf/words.txt"}}]
    Path(config("grpo", rewards=elsewhere)).rename("train.yaml")
    assert run_cli(["train", "train.yaml"]) == 0
    assert yaml.safe_load(Path("runs/one/config.yaml").read_text())["rewards"][0]["folder"] == str(here / "conf")
