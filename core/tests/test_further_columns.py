"""Further columns reach the loss, and on_completions, in real runs of every kind of row."""

from __future__ import annotations

import json

import pytest
import torch

from longline import Column, Plugin, PluginConfig, hookimpl
from longline.errors import PluginError
from longline.testing import chat, preferences


class Watch(Plugin):
    """Sees the batch's columns in the loss, and the rows of on_completions."""

    claims = frozenset({"loss"})

    def __init__(self) -> None:
        super().__init__(PluginConfig())
        self.batches: list[dict] = []
        self.rows: list[dict] = []

    @hookimpl
    def provide_loss(self, run, model):
        own = run.default("provide_loss")(model=model)

        def loss(trainer, model, inputs, num_items_in_batch):
            if trainer.model.training:
                self.batches.append({**trainer.columns, "input_ids": inputs.get("input_ids")})
            return own(trainer, model, inputs, num_items_in_batch)

        return loss

    @hookimpl
    def on_completions(self, completions):
        self.rows += completions.rows


class Asks(Plugin):
    columns = (Column("depth", dtype="float32"),)


def written(path, rows) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize("packing", [False, True])
def test_columns_of_rows_reach_the_loss(run_longline, tmp_path, packing):
    rows = [{**row, "depth": number, "bait": f"worm {number}"} for number, row in enumerate(chat(16))]
    data = {"train": [{"path": written(tmp_path / "deep.jsonl", rows)}], "keep": ["depth", "bait"], "packing": packing}
    watch = Watch()
    run_longline(plugins=[watch], data=data, trainer={"max_steps": 3})
    for batch in watch.batches:
        ids, depth, bait = batch["row_ids"], batch["depth"], batch["bait"]
        if not packing:
            assert depth.tolist() == ids[:, 0].tolist()
            assert bait == [f"worm {row}" for row in ids[:, 0].tolist()]
            continue
        assert depth.shape == ids.shape
        assert depth[ids >= 0].tolist() == ids[ids >= 0].tolist()
        assert [text for row in bait for text in row] == [f"worm {row}" for row in ids[ids >= 0].tolist()]
    assert len(watch.batches) == 3


@pytest.mark.parametrize("packing", [False, True])
def test_vectors_of_tokens_are_cut_and_packed_with_them(run_longline, tmp_path, packing):
    rows = [
        {"input_ids": [40 + n, 100, 110, 120, 130 + n][: 3 + n % 3], "teacher": [[place, n] for place in range(3 + n % 3)]}
        for n in range(12)
    ]
    keep = [{"name": "teacher", "align": "token", "dtype": "float16", "width": 2, "fill": -1}]
    data = {"train": [{"path": written(tmp_path / "taught.jsonl", rows), "format": "tokenized"}]}
    watch = Watch()
    data |= {"max_length": 8 if packing else 4, "packing": packing, "keep": keep}
    run_longline(plugins=[watch], data=data, trainer={"max_steps": 2})
    for batch in watch.batches:
        ids, teacher = batch["input_ids"], batch["teacher"]
        assert teacher.shape == (*ids.shape, 2)
        assert teacher.dtype == torch.float16
        places = {**dict.fromkeys(range(40, 60), 0), 100: 1, 110: 2, 120: 3, **dict.fromkeys(range(130, 150), 4)}
        for token, (place, _) in zip(ids.flatten().tolist(), teacher.reshape(-1, 2).tolist(), strict=True):
            assert place == places.get(token, -1)  # the end token and padding have what fills


@pytest.mark.parametrize("packing", [False, True])
def test_any_value_is_kept_as_json(run_longline, tmp_path, packing):
    rows = [{**row, "told": [None, {"7": -0.5, "é": [number]}]} for number, row in enumerate(chat(8))]
    keep = [{"name": "told", "dtype": "json"}]
    data = {"train": [{"path": written(tmp_path / "told.jsonl", rows)}], "keep": keep, "packing": packing}
    watch = Watch()
    run_longline(plugins=[watch], data=data, trainer={"max_steps": 1})
    batch = watch.batches[0]
    texts = [text for row in batch["told"] for text in row] if packing else batch["told"]
    ids = batch["row_ids"][batch["row_ids"] >= 0].tolist()
    assert [json.loads(text) for text in texts] == [[None, {"7": -0.5, "é": [number]}] for number in ids]


def test_a_plugin_can_ask_for_a_column(run_longline, tmp_path):
    rows = [{**row, "depth": number / 2} for number, row in enumerate(chat(8))]
    watch = Watch()
    data = {"train": [{"path": written(tmp_path / "deep.jsonl", rows)}]}
    run_longline(plugins=[Asks(PluginConfig()), watch], data=data, trainer={"max_steps": 1})
    assert watch.batches[0]["depth"].tolist() == [row / 2 for row in watch.batches[0]["row_ids"][:, 0].tolist()]


def test_two_that_ask_for_one_column_in_two_forms_are_told(run_longline):
    class Other(Plugin):
        columns = (Column("depth", dtype="int64"),)

    with pytest.raises(PluginError, match="plugin 'other' asks for the column 'depth' in another form"):
        run_longline(plugins=[Asks(PluginConfig()), Other(PluginConfig())])


def test_columns_of_pairs_reach_loss_and_completions(run_longline, tmp_path):
    rows = [{**row, "depth": number, "bait": f"worm {number}"} for number, row in enumerate(preferences(8))]
    data = {"train": [{"path": written(tmp_path / "pairs.jsonl", rows)}], "keep": ["depth", "bait"]}
    watch = Watch()
    run_longline(method="dpo", plugins=[watch], data=data, trainer={"max_steps": 2, "beta": 0.1})
    assert [batch["depth"].tolist() for batch in watch.batches] == [batch["row_ids"][:, 0].tolist() for batch in watch.batches]
    told = [(row["depth"], row["bait"]) for row in watch.rows]
    assert told == [(row, f"worm {row}") for batch in watch.batches for row in batch["row_ids"][:, 0].tolist()]
    for row in watch.rows:
        assert f"for {int(row['depth'])} " in row["prompt"]


def test_columns_of_prompts_reach_completions(run_longline, tmp_path):
    rows = [{"prompt": f"fish {number}", "depth": number} for number in range(8)]
    (tmp_path / "rewards_of_columns.py").write_text("def size(completions, **columns): return list(map(len, completions))\n")
    data = {"train": [{"path": written(tmp_path / "prompts.jsonl", rows)}], "keep": ["depth"]}
    trainer = {"max_steps": 2, "num_generations": 2, "max_completion_length": 4}
    watch = Watch()
    run_longline(method="grpo", plugins=[watch], data=data, trainer=trainer, rewards="rewards_of_columns:size")
    assert watch.rows
    assert all(row["prompt"] == f"fish {row['depth']:.0f}" for row in watch.rows)
