"""Tasks of one's own over local data: a choice, a generation and a text, over JSONL and Arrow, and a group of two."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest
import yaml

FISH = ["cod", "tuna", "hake", "ling", "eel", "bream", "sole", "perch"]
CHOICE = {
    "output_type": "multiple_choice",
    "doc_to_text": "Question: {{question}}\nAnswer:",
    "doc_to_choice": "{{choices}}",
    "doc_to_target": "answer",
    "metric_list": [{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in ("acc", "acc_norm")],
}
HOOKS = {
    "output_type": "generate_until",
    "doc_to_text": "How many hooks for {{number}} {{fish}}?",
    "doc_to_target": "{{answer}}",
    "generation_kwargs": {"until": ["\n"], "max_gen_toks": 12},
    # of characters: a random model has something right by it
    "metric_list": [
        {"metric": "exact_match", "aggregation": "mean", "higher_is_better": True},
        {"metric": "chrf", "aggregation": "chrf", "higher_is_better": True},
    ],
}
TEXT = {
    "output_type": "loglikelihood_rolling",
    "doc_to_text": "",
    "doc_to_target": "{{text}}",
    "metric_list": [
        {"metric": "word_perplexity", "aggregation": "weighted_perplexity", "higher_is_better": False},
        {"metric": "bits_per_byte", "aggregation": "bits_per_byte", "higher_is_better": False},
    ],
}


def write_task(folder: Path, name: str, body: dict, rows: list[dict] | None = None, **more: object) -> None:
    """A YAML task, and its rows as JSONL beside it."""
    data: dict = {}
    if rows is not None:
        path = folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        data = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(path)}}, "test_split": "test"}
    text = yaml.safe_dump({"task": name, **data, **body, **more}, sort_keys=False)
    (folder / f"{name}.yaml").write_text(text.replace("'!function ", "!function ").replace(".broken'", ".broken"))


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    """A folder with the tasks fish_choice, fish_hooks and fish_text, and the group fish."""
    folder = tmp_path / "tasks"
    folder.mkdir()
    choices = [[FISH[(row + place * (row % 3 + 1)) % 8] for place in range(3)] for row in range(13)]
    asked = [{"question": f"Which fish is number {row}?", "choices": choices[row], "answer": row % 3} for row in range(13)]
    write_task(folder, "fish_choice", CHOICE, asked)
    counted = [
        {"number": row, "fish": FISH[row], "answer": f"Take {2 * row + 1} hooks for the {FISH[row]}."} for row in range(5)
    ]
    write_task(folder, "fish_hooks", HOOKS, counted)
    texts = pa.table({"text": [f"Take {row} hooks for the {FISH[row]}. " * (row % 3 + 1) for row in range(7)]})
    with pa.OSFile(str(folder / "text.arrow"), "wb") as file, pa.ipc.new_stream(file, texts.schema) as stream:
        stream.write_table(texts)
    files = {"data_files": {"test": str(folder / "text.arrow")}}
    write_task(folder, "fish_text", {"dataset_path": "arrow", "dataset_kwargs": files, "test_split": "test", **TEXT})
    group = {"group": "fish", "task": ["fish_choice", "fish_hooks"], "aggregate_metric_list": [{"metric": "acc"}]}
    (folder / "group.yaml").write_text(yaml.safe_dump(group))
    write_task(folder, "on_the_hub", {"dataset_path": "longline/nobody-has-this", "test_split": "test", **CHOICE})
    return folder


@pytest.fixture
def broken(tasks: Path) -> str:
    """A task whose last row, which two ranks leave to the second, makes its own code fail."""
    (tasks / "faults.py").write_text(
        "def broken(doc, results):\n"
        "    if doc['number'] == 3:\n"
        "        raise ZeroDivisionError('no hooks')\n"
        "    return {'exact_match': 0}\n"
    )
    rows = [{"number": row, "fish": "cod", "answer": "x"} for row in range(4)]
    metrics = [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}]
    write_task(tasks, "broken", {**HOOKS, "metric_list": metrics, "process_results": "!function faults.broken"}, rows)
    return "broken"
