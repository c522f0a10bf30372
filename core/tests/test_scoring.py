"""A model of scores looks at the end of a text, whatever pads: in the run, in plain transformers, and merged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from longline import Completions, Plugin, hookimpl
from longline.cli import run_cli
from longline.errors import DataError

ROWS = [{"prompt": f"How many {n}?", "chosen": f"Take {n} hooks.", "rejected": "No idea " * (n % 4 + 1)} for n in range(8)]


class Watcher(Plugin):
    """Keeps the scores that the last step told."""

    def __init__(self) -> None:
        self.told: Any = None

    @hookimpl
    def on_completions(self, completions: Completions) -> None:
        self.told = completions


@pytest.fixture
def options(tmp_path: Path) -> dict[str, Any]:
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    trainer = {"max_steps": 2, "per_device_train_batch_size": 4, "disable_dropout": True, "learning_rate": 1e-2}
    return {"method": "reward", "data": {"train": [{"path": str(path), "format": "preference"}]}, "trainer": trainer}


def padded_with_the_end(source: Path, folder: Path, *, alone: bool = False) -> str:
    """A copy of the tiny model whose tokenizer pads with `<|im_end|>`; `alone`: that is its one special token."""
    tokenizer = AutoTokenizer.from_pretrained(source)
    AutoModelForSequenceClassification.from_pretrained(source, num_labels=1).save_pretrained(folder)
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(folder)
    if alone:
        path = folder / "tokenizer.json"
        content = json.loads(path.read_text(encoding="utf-8"))
        content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] == "<|im_end|>"]
        path.write_text(json.dumps(content), encoding="utf-8")
        config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        kept = {name: config[name] for name in ("tokenizer_class", "eos_token", "pad_token")}
        (folder / "tokenizer_config.json").write_text(json.dumps(kept), encoding="utf-8")
    return str(folder)


def at_the_end(model: Any, ids: list[int]) -> float:
    """The score at the last of these tokens, from hidden states: nothing of it depends on what pads."""
    whole = model.base_model.model if isinstance(model, PeftModel) else model
    with torch.no_grad():
        return float(whole.score(whole.model(torch.tensor([ids])).last_hidden_state)[0, -1, 0])


@pytest.mark.parametrize("adapter", [None, {"type": "lora", "r": 4}], ids=["full", "lora"])
def test_a_text_is_scored_where_it_ends(adapter, options, run_longline, tmp_path, tiny_model_dir):
    base = padded_with_the_end(tiny_model_dir, tmp_path / "base")
    watcher = Watcher()
    out = run_longline(plugins=[watcher], adapter=adapter, **{**options, "model": {"path": base}})
    assert out.manifest["plan"]["pads with"] == "<|pad|>"
    folder = out.output_dir / "model"
    if adapter:
        assert run_cli(["merge", str(out.output_dir)]) == 0
        folder = out.output_dir / "merged"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    texts = [row["prompt"] + row[side] + tokenizer.eos_token for row in ROWS for side in ("chosen", "rejected")]
    batch = tokenizer(texts, return_tensors="pt", padding=True)
    assert len({int(length) for length in batch["attention_mask"].sum(1)}) > 1
    with torch.no_grad():
        together = model(**batch).logits[:, 0].tolist()
        alone = [float(model(**tokenizer(text, return_tensors="pt")).logits) for text in texts]
    right = [at_the_end(model, tokenizer(text)["input_ids"]) for text in texts]
    assert together == pytest.approx(right, abs=1e-5)
    assert alone == pytest.approx(right, abs=1e-5)
    assert at_the_end(model, tokenizer(texts[0])["input_ids"][:-1]) != pytest.approx(right[0], abs=1e-3)


def test_the_run_itself_scores_the_end(options, run_longline, tmp_path, tiny_model_dir):
    """At learning rate 0 the saved model is the one whose scores the run told."""
    base = padded_with_the_end(tiny_model_dir, tmp_path / "base")
    watcher = Watcher()
    trainer = {**options["trainer"], "learning_rate": 0.0}
    out = run_longline(plugins=[watcher], **{**options, "model": {"path": base}, "trainer": trainer})
    tokenizer = AutoTokenizer.from_pretrained(out.output_dir / "model")
    model = AutoModelForSequenceClassification.from_pretrained(out.output_dir / "model").eval()
    assert len(watcher.told.rows) == 4
    for row in watcher.told.rows:
        for side in ("chosen", "rejected"):
            ids = tokenizer(f"{row['prompt']}{row[side]}{tokenizer.eos_token}")["input_ids"]
            assert row[f"reward_{side}"] == pytest.approx(at_the_end(model, ids), abs=1e-4)


def test_where_nothing_else_can_pad_the_remedy_works(options, run_longline, tmp_path, tiny_model_dir):
    base = padded_with_the_end(tiny_model_dir, tmp_path / "base", alone=True)
    with pytest.raises(DataError, match=r"16 texts end with <\|im_end\|>, which also pads") as told:
        run_longline(**{**options, "model": {"path": base}})
    assert "add_tokens" in str(told.value.hint)
    own = {"path": base, "tokenizer": {"add_tokens": ["<|pad|>"], "pad_token": "<|pad|>"}}
    run_longline(**{**options, "model": own, "output_dir": str(tmp_path / "own")})


def test_a_named_token_is_not_replaced(options, run_longline, tiny_model_dir):
    model = {"path": str(tiny_model_dir), "tokenizer": {"pad_token": "<|im_end|>"}}
    with pytest.raises(DataError, match="which also pads"):
        run_longline(**{**options, "model": model})


def test_texts_that_end_otherwise_keep_their_padding(options, run_longline, tmp_path, tiny_model_dir, preference_rows):
    base = padded_with_the_end(tiny_model_dir, tmp_path / "base")
    data = {"train": [{"path": str(preference_rows), "format": "preference"}]}  # the template ends with a line break
    out = run_longline(**{**options, "model": {"path": base}, "data": data})
    assert "pads with" not in out.manifest["plan"]
