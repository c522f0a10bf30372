"""Packs: nothing lost, nothing too full, as good as the best known, and isolated from each other in the loss."""

import itertools
import time

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from longline.config.sections import DataSection
from longline.data import prepare
from longline.data.collate import Collator
from longline.data.kinds.labelled import LABELLED
from longline.data.kinds.pair import PAIR
from longline.data.kinds.prompt import PROMPT
from longline.data.kinds.sample import SAMPLE
from longline.data.packing import efficiency, pack

LAYOUTS = {
    "padded": {"kind": SAMPLE},
    "rows": {"kind": SAMPLE, "packing": "rows"},
    "flat": {"kind": SAMPLE, "packing": "flat"},
    "pairs": {"kind": PAIR},
    "labelled": {"kind": LABELLED},
    "prompts": {"kind": PROMPT},
}


def lengths_of(count, capacity, seed=0):
    return np.clip(np.random.default_rng(seed).lognormal(5, 0.8, count), 1, capacity).astype(int)


def groups(packs):
    """The packs as lists."""
    return [packs.members[start:end].tolist() for start, end in itertools.pairwise(packs.edges)]


@pytest.mark.parametrize("capacity", [7, 64, 1024, 5000])
def test_every_sample_is_in_one_pack_that_holds_it(capacity):
    sizes = lengths_of(3000, capacity)
    packs = groups(pack(sizes, capacity))
    assert sorted(itertools.chain.from_iterable(packs)) == list(range(3000))
    assert max(sizes[members].sum() for members in packs) <= capacity
    assert all(members and members == sorted(members) for members in packs)
    assert packs == groups(pack(sizes, capacity))


def test_what_fills_a_pack_exactly_goes_before_what_is_long():
    # The longest that fits beside 6 is 3, but 2 and 2 fill it; 5 and 5 fill each other.
    assert sorted(groups(pack([5, 3, 6, 5, 2, 2], 10))) == [[0, 3], [1], [2, 4, 5]]
    assert groups(pack([10, 10], 10)) == [[0], [1]]
    assert groups(pack([4, 4, 2, 4, 4, 2], 10)) == [[0, 1, 2], [3, 4, 5]]
    assert groups(pack([], 10)) == []


def test_lengths_that_cannot_be_packed():
    for sizes in ([0], [11]):
        with pytest.raises(ValueError, match="between 1 and 10"):
            pack(sizes, 10)


def first_fit(sizes, capacity):
    """First-fit decreasing as a textbook has it."""
    spaces = []
    for size in sorted(sizes, reverse=True):
        number = next((number for number, space in enumerate(spaces) if space >= size), None)
        if number is None:
            number = len(spaces)
            spaces.append(capacity)
        spaces[number] -= size
    return len(spaces)


def test_no_worse_than_first_fit_or_trl():
    data_utils = pytest.importorskip("trl.data_utils", reason="trl is not installed")
    from datasets import Dataset

    for capacity, seed, shift in ((512, 1, 0), (1024, 2, 0), (2048, 3, 0), (512, 4, 120), (300, 5, 40)):
        sizes = np.minimum(lengths_of(1000, capacity, seed) + shift, capacity)
        theirs = data_utils.pack_dataset(Dataset.from_dict({"input_ids": [[0] * size for size in sizes]}), capacity, "bfd")
        count = len(pack(sizes, capacity))
        assert count <= len(theirs)
        assert count <= first_fit(sizes.tolist(), capacity)


@pytest.mark.parametrize("least", [0, 40])
@pytest.mark.parametrize("count", [20_000, 300_000])
def test_packs_of_log_normal_lengths_are_full(count, least):
    """Lengths as chats have them: `least` tokens are the template's own, and what is too long was cut."""
    sizes = np.clip(np.random.default_rng(1).lognormal(4.7, 0.8, count) + least, 8, 512).astype(int)
    assert efficiency(sizes, len(pack(sizes, 512)), 512) >= 0.995


def test_a_million_rows_in_long_packs():
    """Looked through once for each sample, 32k lengths took 20 s here."""
    sizes = np.clip(np.random.default_rng(0).lognormal(6.2, 1.2, 1_000_000) + 40, 1, 32768).astype(int)
    started = time.perf_counter()
    packs = pack(sizes, 32768)
    assert time.perf_counter() - started < 5
    assert efficiency(sizes, len(packs), 32768) >= 0.9995


@pytest.mark.parametrize("seed", range(20))
def test_packs_are_never_more_than_first_fit_needs(seed):
    """Few lengths of which there are many, and many that few fit: both ways of filling have their turn."""
    random = np.random.default_rng(seed)
    capacity = int(random.integers(5, 60))
    sizes = random.integers(1, int(random.integers(2, capacity + 1)), 200)
    packs = groups(pack(sizes, capacity))
    assert sorted(itertools.chain.from_iterable(packs)) == list(range(200))
    assert max(sizes[members].sum() for members in packs) <= capacity
    assert len(packs) <= first_fit(sizes.tolist(), capacity)


def test_equal_lengths_are_packed_in_their_order():
    packs = pack([3] * 7, 9)
    assert groups(packs) == [[0, 1, 2], [3, 4, 5], [6]]
    assert groups(packs.take(np.array([2, 0]))) == [[6], [0, 1, 2]]


@pytest.fixture
def section(jsonl, chat):
    rows = [chat("four " * (number % 9) + "six.", f"Say {number}") for number in range(40)]
    return DataSection(train=jsonl(rows), eval_fraction=0.2, max_length=128, cache=False)


def test_packed_data_set(section, chatml):
    plain = prepare(section, chatml, kind=SAMPLE, seed=1)
    packed = prepare(section, chatml, kind=SAMPLE, packing="rows", seed=1)
    by_id = {row["row_ids"][0]: row for row in plain.train}
    seen = []
    for row in packed.train:
        assert sum(row["seq_lengths"]) == row["length"] == len(row["input_ids"]) <= 128
        start = 0
        for length, sample in zip(row["seq_lengths"], row["row_ids"], strict=True):
            assert row["input_ids"][start : start + length] == by_id[sample]["input_ids"]
            assert row["labels"][start : start + length] == by_id[sample]["labels"]
            assert packed.origin("train", sample) == plain.origin("train", sample)
            start += length
            seen.append(sample)
    assert sorted(seen) == sorted(by_id)
    report = packed.report.train
    assert report.packs == len(packed.train) < len(plain.train)
    assert report.efficiency == pytest.approx(report.tokens / (report.packs * 128))
    assert packed.report.eval.packs == len(packed.eval)


def test_packs_are_shuffled_by_the_seed_or_in_the_order_of_the_rows(section, chatml):
    first, again, other = (
        prepare(section, chatml, kind=SAMPLE, packing="rows", seed=seed).train["length"] for seed in (1, 1, 2)
    )
    assert list(first) == list(again) != list(other)
    # Best-fit decreasing alone would leave the packs with the longest samples first.
    assert list(first) != sorted(first, reverse=True)
    ordered = prepare(section.model_copy(update={"shuffle": False}), chatml, kind=SAMPLE, packing="rows", seed=1).train
    starts = [row["row_ids"][0] for row in ordered]
    assert starts == sorted(starts)


# --- batches ----------------------------------------------------------------------------------------

PACKED = [
    {"input_ids": [1, 2, 3, 4, 5], "labels": [-100, 2, 3, -100, 5], "seq_lengths": [3, 2], "row_ids": [7, 8]},
    {"input_ids": [6, 7], "labels": [-100, 7], "seq_lengths": [2], "row_ids": [9]},
]


def test_collated_rows():
    batch = Collator(0, SAMPLE, "rows")(PACKED)
    assert {name: part.tolist() for name, part in batch.items()} == {
        "input_ids": [[1, 2, 3, 4, 5], [6, 7, 0, 0, 0]],
        "labels": [[-100, 2, 3, -100, 5], [-100, 7, -100, -100, -100]],
        "position_ids": [[0, 1, 2, 0, 1], [0, 1, 0, 1, 2]],
        "row_ids": [[7, 8], [9, -1]],
        "token_count": [7],
    }
    assert {part.dtype for part in batch.values()} == {torch.int64}


def test_collated_flat():
    batch = Collator(0, SAMPLE, "flat", pad_to_multiple_of=8)(PACKED)
    assert {name: part.tolist() for name, part in batch.items()} == {
        "input_ids": [[1, 2, 3, 4, 5, 6, 7, 0]],
        "labels": [[-100, 2, 3, -100, 5, -100, 7, -100]],
        "position_ids": [[0, 1, 2, 0, 1, 0, 1, 0]],
        "row_ids": [[7, 8], [9, -1]],
        "token_count": [7],
    }


def test_collated_padded():
    rows = [{name: part for name, part in row.items() if name != "seq_lengths"} for row in PACKED]
    batch = Collator(9, SAMPLE, pad_to_multiple_of=4)(rows)
    assert {name: part.tolist() for name, part in batch.items()} == {
        "input_ids": [[1, 2, 3, 4, 5, 9, 9, 9], [6, 7, 9, 9, 9, 9, 9, 9]],
        "labels": [[-100, 2, 3, -100, 5, -100, -100, -100], [-100, 7, *[-100] * 6]],
        "attention_mask": [[1, 1, 1, 1, 1, 0, 0, 0], [1, 1, 0, 0, 0, 0, 0, 0]],
        "row_ids": [[7, 8], [9, -1]],
        "token_count": [7],
    }


@pytest.mark.parametrize(("longest", "width"), [(5, 64), (64, 64), (65, 100), (100, 100), (101, 101)])
def test_a_row_is_padded_no_further_than_the_longest_that_is_allowed(longest, width):
    rows = [{"input_ids": [1] * length, "labels": [1] * length, "row_ids": [0]} for length in (3, longest)]
    assert Collator(0, SAMPLE, pad_to_multiple_of=64, max_length=100)(rows)["input_ids"].shape == (2, width)


def model_with(attention, vocabulary):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        use_cache=False,
        attn_implementation=attention,
        initializer_range=0.5,
    )
    return LlamaForCausalLM(config).eval()


def loss_of(model, batch):
    with torch.no_grad():
        return model(**{name: part for name, part in batch.items() if name not in ("row_ids", "token_count")}).loss.item()


def loss_alone(model, rows):
    """The mean over all learnt tokens of all samples, each computed by itself."""
    total, count = 0.0, 0
    for row in rows:
        ids, labels = torch.tensor([row["input_ids"]]), torch.tensor([row["labels"]])
        with torch.no_grad():
            logits = model(input_ids=ids).logits[0, :-1].double()
        total += torch.nn.functional.cross_entropy(logits, labels[0, 1:], reduction="sum").item()
        count += int((labels[0, 1:] != -100).sum())
    return total / count


@pytest.mark.parametrize(("attention", "layout"), [("sdpa", "rows"), ("eager", "rows"), ("sdpa", "flat"), ("eager", "flat")])
def test_loss_of_packs_is_that_of_their_samples_alone(section, chatml, attention, layout):
    model = model_with(attention, len(chatml))
    alone = {row["row_ids"][0]: row for row in prepare(section, chatml, kind=SAMPLE, seed=1).train}
    packed = [row for row in prepare(section, chatml, **LAYOUTS[layout], seed=1).train if len(row["row_ids"]) > 1][:2]
    batch = Collator(chatml.pad_token_id, **LAYOUTS[layout])(packed)
    members = [alone[sample] for row in packed for sample in row["row_ids"]]
    assert batch["input_ids"].shape[0] == (2 if layout == "rows" else 1)
    expected = loss_alone(model, members)
    assert loss_of(model, batch) == pytest.approx(expected, abs=1e-5)
    # The test can tell: seen as one sample, the same tokens have another loss.
    joined = {**batch, "position_ids": torch.arange(batch["input_ids"].shape[1])[None].expand_as(batch["input_ids"])}
    assert abs(loss_of(model, joined) - expected) > 1e-3


def test_loss_of_padded_rows_is_that_of_each_alone(section, chatml):
    model = model_with("sdpa", len(chatml))
    rows = list(prepare(section, chatml, kind=SAMPLE, seed=1).train)[:4]
    assert len({len(row["input_ids"]) for row in rows}) > 1
    assert loss_of(model, Collator(chatml.pad_token_id)(rows)) == pytest.approx(loss_alone(model, rows), abs=1e-5)
