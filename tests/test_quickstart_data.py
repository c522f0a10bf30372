"""The quickstart's data is what its generator writes, and its held-out rows share nothing with the training rows."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "examples" / "quickstart"


def conversations(name: str) -> list[dict[str, str]]:
    rows = [json.loads(line) for line in (FOLDER / name).read_text(encoding="utf-8").splitlines()]
    return [{message["role"]: message["content"] for message in row["messages"]} for row in rows]


def test_the_files_are_what_the_generator_writes():
    done = subprocess.run(
        [sys.executable, str(FOLDER / "make_data.py"), "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_held_out_rows_are_strict_json_and_share_neither_sentence_nor_task():
    train, heldout = conversations("train.jsonl"), conversations("heldout.jsonl")
    assert len(train) >= 300
    assert len(heldout) == 50
    answers = [json.loads(row["assistant"]) for row in train + heldout]
    assert {tuple(answer) for answer in answers} == {("task", "day", "time")}
    tasks = {answer["task"] for answer in answers[: len(train)]}
    assert not tasks & {answer["task"] for answer in answers[len(train) :]}
    assert not {row["user"].lower() for row in train} & {row["user"].lower() for row in heldout}


def test_no_template_is_shared_word_for_word():
    made = runpy.run_path(str(FOLDER / "make_data.py"))

    def words(template: str) -> str:
        return " ".join(re.findall(r"[a-z{}_]+", template.lower()))

    train, heldout = ({words(template) for template in made[name]} for name in ("TRAIN_TEMPLATES", "HELDOUT_TEMPLATES"))
    assert train
    assert heldout
    assert not train & heldout
