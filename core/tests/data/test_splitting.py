"""Long documents lose nothing: pieces, overlaps, joined blocks; splits by document; what refuses; what is told of losses."""

import numpy as np
import pytest

from longline.config.sections import DataSection
from longline.data import prepare
from longline.data.kinds.labelled import LABELLED
from longline.data.kinds.pair import PAIR
from longline.data.kinds.prompt import PROMPT
from longline.data.kinds.sample import SAMPLE
from longline.errors import DataError

SIZE = 32


def run(tokenizer, kind=SAMPLE, packing=None, seed=0, **options):
    section = DataSection(**{"cache": False, "max_length": SIZE, "shuffle": False, **options})
    return prepare(section, tokenizer, kind=kind, packing=packing, seed=seed)


def text_of(number, words):
    return " ".join(f"{('user', 'assistant', 'system', 'model')[(number + at) % 4]} {at}" for at in range(words))


@pytest.fixture
def documents(jsonl):
    """A file of documents of these many words each."""

    def write(*words, name="docs.jsonl"):
        return jsonl([{"text": text_of(number, count)} for number, count in enumerate(words)], name)

    return write


def whole(tokenizer, number, words):
    """The ids of a document, by the tokenizer itself."""
    return [*tokenizer(text_of(number, words), add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]


def rows(data, split="train"):
    return [(row["input_ids"], row["labels"], row["row_ids"]) for row in getattr(data, split)]


def test_a_document_is_split_by_default_and_each_token_is_there_once(chatml, documents):
    data = run(chatml, train=documents(100, 3, 57))
    kept = rows(data)
    expected = [whole(chatml, number, words) for number, words in enumerate((100, 3, 57))]
    assert [token for ids, _, _ in kept for token in ids] == [token for ids in expected for token in ids]
    assert max(len(ids) for ids, _, _ in kept) == SIZE
    for ids, labels, _ in kept:
        assert labels == [-100, *ids[1:]]
    assert [row_ids for _, _, row_ids in kept] == [[number] for number in range(len(kept))]
    ends = [ids for ids, _, _ in kept if chatml.eos_token_id in ids]
    assert len(ends) == 3  # the end of a document and no other place
    assert all(ids.index(chatml.eos_token_id) == len(ids) - 1 for ids in ends)
    [source] = data.report.sources
    assert (source.rows, source.kept, source.pieces, source.split_rows, source.lost) == (3, 3, len(kept), 2, 0)
    assert source.tokens == data.report.train.tokens == sum(map(len, expected))
    assert (data.report.train.samples, data.report.train.documents) == (len(kept), 3)
    assert data.origin("train", 1).endswith("docs.jsonl:1 (piece 2)")
    assert data.report.warnings == []


@pytest.mark.parametrize("overlap", [1, 5, SIZE - 1])
def test_an_overlap_is_context_that_is_learnt_once(chatml, documents, overlap):
    data = run(chatml, train=documents(60), overlap=overlap)
    expected = whole(chatml, 0, 60)
    learnt, before = [], None
    for ids, labels, _ in rows(data):
        if before is not None:
            assert ids[:overlap] == before[-overlap:]
            assert labels[:overlap] == [-100] * overlap
        learnt += [label for label in labels if label != -100]
        before = ids
    assert learnt == expected[1:]  # each once, but the first of the document, which nothing predicts
    assert data.report.train.trained_tokens == len(expected) - 1


def test_the_end_of_a_document_is_never_alone(chatml, jsonl):
    """A piece of one token would teach nothing, and it would be the end."""
    row = {"input_ids": list(range(100, 100 + 2 * SIZE + 1))}
    kept = rows(run(chatml, train=[{"path": jsonl([row]), "too_long": "split"}]))
    assert [len(ids) for ids, _, _ in kept] == [SIZE, SIZE - 1, 2]
    assert kept[-1][1] == [-100, 100 + 2 * SIZE]


def test_joined_documents_fill_their_rows(chatml, documents):
    words = (50, 3, 20, 1, 70)
    data = run(chatml, train=documents(*words), join=True)
    stream = [token for number, count in enumerate(words) for token in whole(chatml, number, count)]
    kept = rows(data)
    assert [ids for ids, _, _ in kept] == [stream[start : start + SIZE] for start in range(0, len(stream), SIZE)]
    for ids, labels, _ in kept:
        assert labels == [-100, *ids[1:]]  # as concatenation has it: also the first token of a document within a row
    assert sorted({row_id for _, _, row_ids in kept for row_id in row_ids}) == [0, 1, 2, 3, 4]
    assert data.report.train.trained_tokens == len(stream) - len(kept)
    assert (data.report.train.samples, data.report.train.documents) == (len(kept), 5)
    shuffled = run(chatml, train=documents(*words), join=True, shuffle=True, seed=3)
    assert sorted(token for ids, _, _ in rows(shuffled) for token in ids) == sorted(stream)
    assert [len(ids) for ids, _, _ in rows(shuffled)].count(SIZE) == len(stream) // SIZE


def test_the_cache_gives_what_memory_gives(chatml, documents, tmp_path):
    path = documents(50, 3, 70)
    for options in ({}, {"overlap": 7}, {"join": True}, {"too_long": "truncate"}):
        kept = [
            rows(run(chatml, train=path, cache=cache, cache_dir=tmp_path / "c", **options)) for cache in (False, True, True)
        ]
        assert kept[0] == kept[1] == kept[2]
    assert len(list((tmp_path / "c").glob("*/manifest.json"))) == 4  # each option is part of the key


@pytest.mark.parametrize("join", [False, True])
def test_evaluation_gets_whole_documents(chatml, documents, join):
    words = [60, 2, 45, 80, 30, 50, 7, 90]
    data = run(chatml, train=documents(*words), eval_fraction=0.25, join=join)
    sides = []
    for split in ("train", "eval"):
        places = {place for row in getattr(data, split) for row_id in row["row_ids"] for place in [data.origin(split, row_id)]}
        sides.append({place.partition(" ")[0] for place in places})
    assert not sides[0] & sides[1]
    assert [len(side) for side in sides] == [6, 2]
    assert data.report.train.tokens + data.report.eval.tokens == data.report.sources[0].tokens


def test_pieces_are_packed(chatml, documents):
    data = run(chatml, train=documents(60, 3, 45, 9), packing="rows")
    pieces = run(chatml, train=documents(60, 3, 45, 9))
    assert sum(data.train["length"]) == sum(pieces.train["length"])
    assert sorted(row_id for row in data.train for row_id in row["row_ids"]) == list(range(len(pieces.train)))


def test_further_columns_follow_their_tokens(chatml, jsonl):
    count = 3 * SIZE + 5
    row = {"input_ids": [100 + number % 50 for number in range(count)], "place": list(range(count)), "source": "book"}
    options = {"keep": ["place", "source"], "too_long": "split"}
    kept = run(chatml, train=jsonl([row]), overlap=4, **options).train
    assert [value for part in kept for value in part["place"][4 * (part["row_ids"] != [0]) :]] == list(range(count))
    assert set(kept["source"]) == {"book"}
    joined = run(chatml, train=jsonl([row, row]), join=True, too_long="split", keep=["place"]).train
    assert [value for part in joined for value in part["place"]] == [*range(count), *range(count)]
    with pytest.raises(DataError, match="the column 'source' has a value for each row"):
        run(chatml, train=jsonl([row]), join=True, **options)


def test_pieces_with_nothing_to_learn_are_left_out(chatml, jsonl):
    row = {"segments": [{"text": text_of(0, 50), "train": False}, {"text": text_of(1, 4), "train": True}]}
    data = run(chatml, train=jsonl([row]), too_long="split")
    [source] = data.report.sources
    assert (source.kept, source.pieces, source.untrained) == (1, 1, 0)
    assert source.idle > 0


def test_what_is_one_whole_is_not_split(chatml, jsonl, chat):
    long = "four " * 60
    pair = jsonl([{"prompt": "Two?", "chosen": long, "rejected": f"{long}!"}], "pair.jsonl")
    label = jsonl([{"prompt": "Two?", "completion": long, "label": True}], "label.jsonl")
    prompt = jsonl([{"prompt": long}], "prompt.jsonl")
    for path, kind in ((pair, PAIR), (label, LABELLED), (prompt, PROMPT)):
        with pytest.raises(DataError, match=f"a {kind.name} is one whole and cannot be split"):
            run(chatml, kind, train=path, too_long="split")
        with pytest.raises(DataError, match=f"a {kind.name} is one whole and cannot be joined"):
            run(chatml, kind, train=path, join=True)
    with pytest.raises(DataError, match="rows of the format 'chat' are not joined by themselves"):
        run(chatml, train=jsonl([chat("Yes.")]), join=True)
    with pytest.raises(DataError, match=r"data\.overlap is set, and no source is split"):
        run(chatml, train=jsonl([chat("Yes.")]), overlap=3)


def test_a_source_has_a_rule_of_its_own(chatml, documents, jsonl, chat):
    books = documents(60)
    data = run(chatml, train=[{"path": books}, {"path": jsonl([chat("four " * 60), chat("Yes.")])}])
    split, cut = data.report.sources
    assert (split.pieces > 1, split.lost) == (True, 0)
    assert (cut.pieces, cut.truncated) == (2, 1)
    assert cut.lost > 0
    data = run(chatml, train=[{"path": books, "too_long": "truncate"}])
    assert len(data.train) == 1


@pytest.mark.parametrize("rule", ["truncate", "drop"])
def test_lost_tokens_are_counted_and_warned_about(chatml, documents, rule):
    words = (60, 5, 6)
    data = run(chatml, train=documents(*words), too_long=rule)
    lengths = np.array([len(whole(chatml, number, count)) for number, count in enumerate(words)])
    lost = lengths[0] - (SIZE if rule == "truncate" else 0)
    assert data.report.sources[0].lost == lost
    [warning] = data.report.warnings
    assert f"{lost} of {lengths.sum()} tokens ({lost / lengths.sum():.0%}) are behind max_length and are lost" in warning
    assert warning.endswith("raise data.max_length, or set data.too_long: split")
    assert run(chatml, train=documents(*words), max_length=400, too_long=rule).report.warnings == []
