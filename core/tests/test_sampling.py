"""Batches of like lengths: every row once, in an order that seed and epoch alone decide, with little padding."""

from __future__ import annotations

import numpy as np

from longline import Plugin, hookimpl
from longline.plugins import PluginConfig
from longline.trainers.sampling import LengthGroupedSampler

LENGTHS = np.random.default_rng(0).lognormal(5, 0.8, 1003).astype(int) + 1


def padding(order, batch):
    """The share of slots that hold nothing, when rows are padded to the longest of their batch."""
    batches = [LENGTHS[order[start : start + batch]] for start in range(0, len(order), batch)]
    return 1 - sum(map(sum, batches)) / sum(len(rows) * max(rows) for rows in batches)


def test_every_row_comes_once_and_padding_is_small():
    order = list(LengthGroupedSampler(LENGTHS, 8, seed=1))
    assert sorted(order) == list(range(1003))
    shuffled = np.random.default_rng(3).permutation(1003)
    assert padding(shuffled, 8) > 0.4
    assert padding(order, 8) < 0.1


def test_the_longest_batch_is_first_and_the_others_come_at_random():
    order = list(LengthGroupedSampler(LENGTHS, 8, seed=1))
    means = [LENGTHS[order[start : start + 8]].mean() for start in range(0, 1000, 8)]
    assert LENGTHS[order[:8]].max() == LENGTHS[order[:1000]].max()
    thirds = np.array_split(np.array(means[1:]), 3)
    assert max(map(np.mean, thirds)) < 1.5 * min(map(np.mean, thirds)), "lengths rise or fall through the epoch"


def test_seed_and_epoch_decide_the_order():
    one, two = LengthGroupedSampler(LENGTHS, 8, seed=1), LengthGroupedSampler(LENGTHS, 8, seed=1)
    assert list(one) == list(two) == list(one)
    two.set_epoch(1)
    assert list(one) != list(two)
    assert list(one) != list(LengthGroupedSampler(LENGTHS, 8, seed=2))


def test_few_rows_and_none():
    assert sorted(LengthGroupedSampler([5, 3, 9], 8, seed=0)) == [0, 1, 2]
    assert list(LengthGroupedSampler([], 8, seed=0)) == []


class Batches(Plugin):
    """Keeps the lengths of the rows of each batch."""

    def __init__(self) -> None:
        super().__init__(PluginConfig())
        self.batches: list[list[int]] = []

    @hookimpl
    def post_trainer_create(self, trainer):
        given = trainer.loss_function

        def watched(trainer, model, inputs, num_items_in_batch):
            self.batches.append(inputs["attention_mask"].sum(1).tolist())
            return given(trainer, model, inputs, num_items_in_batch)

        trainer.loss_function = watched


def write_pairs(path):
    import json

    chosen = np.random.default_rng(4)
    with path.open("w") as stream:
        for length in chosen.lognormal(2.5, 0.8, 120).astype(int) + 1:
            words = " ".join(["one two three"] * int(length))
            stream.write(json.dumps({"prompt": words, "chosen": "yes", "rejected": "no"}) + "\n")


def test_preference_methods_group_pairs_by_length_unless_told_otherwise(run_longline, tmp_path):
    rows = tmp_path / "pairs.jsonl"
    write_pairs(rows)
    shares = {}
    for strategy in (None, "random"):
        watch = Batches()
        run_longline(
            method="dpo",
            output_dir=str(tmp_path / str(strategy)),
            data={"train": [{"path": str(rows), "format": "preference"}], "max_length": 512},
            trainer={
                "max_steps": 25,
                "per_device_train_batch_size": 4,
                **({} if strategy is None else {"train_sampling_strategy": strategy}),
            },
            plugins=[watch],
        )
        slots = sum(len(rows) * max(rows) for rows in watch.batches)
        shares[strategy] = 1 - sum(map(sum, watch.batches)) / slots
    assert shares[None] < 0.5 * shares["random"]
