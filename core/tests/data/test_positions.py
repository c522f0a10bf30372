"""Where tokens start: adding up their bytes says the same as the tokenizer's own account, or isn't used."""

import bisect
import random

import pytest
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from longline.data.long_texts import WINDOW, tokenised
from longline.data.positions import BATCH_CHARACTERS, COMPARED, Finder
from longline.data.values import Piece

SIGNS = [
    "a",
    "four",
    " ",
    "\n",
    "  ",
    "é",
    "ü",
    "中文",
    "🙂",
    "👩‍👩‍👧",
    "e\u0301",
    "\u0000",
    "ﬁ",
    "한",
    "<|im_end|>",
    "<|im_start|>",
    "user",
    "'s",
    "123",
    "\t",
    "▁",
]


def texts(count, seed=0):
    """Texts of every kind of character, with spans and terminators at any place."""
    chosen = random.Random(seed)
    pieces = []
    for _ in range(count):
        text = "".join(chosen.choices(SIGNS, k=chosen.randint(0, 40)))
        places = sorted(chosen.choices(range(len(text) + 1), k=4))
        pieces.append(Piece(text, [(places[0], places[1]), (places[2], places[3])], [places[1]], chat=True))
    return pieces


def finder(tokenizer, **changes):
    """A finder for a copy of the tokenizer with other parts."""
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.post_processor = processors.TemplateProcessing(single="$A", pair="$A $B", special_tokens=[])
    for name, part in changes.items():
        setattr(backend, name, part)
    return Finder(backend)


def same(first, second):
    assert len(first) == len(second)
    return all(one.agrees(other) for one, other in zip(first, second, strict=True))


@pytest.mark.parametrize("name", ["chatml", "smollm2"])
def test_both_ways_say_the_same(request, name):
    found = finder(request.getfixturevalue(name))
    pieces = texts(2000)
    assert None not in found._by_size(pieces)
    assert same(found.find(pieces), found._slowly(pieces))
    assert found._quick
    straddling = sum(any(place.straddles) for place in found.find(pieces))
    assert 0 < straddling < 2000


def test_a_text_that_is_normalised_is_asked_for(chatml):
    found = finder(chatml, normalizer=normalizers.NFC())
    pieces = [*texts(500, seed=1), Piece("e\u0301 four e\u0301", [(3, 7)], [7])]
    asked = [place is None for place in found._by_size(pieces)]
    assert asked == ["e\u0301" in piece.text for piece in pieces]
    assert same(found.find(pieces), found._slowly(pieces))
    assert found._quick


@pytest.mark.parametrize(
    "change",
    [
        {"normalizer": normalizers.NFKC()},
        {"normalizer": normalizers.Lowercase()},
        {"pre_tokenizer": pre_tokenizers.Metaspace()},
        {"pre_tokenizer": None},
    ],
)
def test_other_tokenizers_are_asked(chatml, change):
    found = finder(chatml, **change)
    assert not found._quick
    pieces = texts(100)
    assert same(found.find(pieces), found._slowly(pieces))


def test_a_space_that_is_put_before_the_text_is_noticed(chatml):
    found = finder(chatml, pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=True))
    pieces = texts(300, seed=2)
    assert None in found._by_size(pieces)
    assert same(found.find(pieces), found._slowly(pieces))


def test_a_token_that_takes_the_space_beside_it_is_noticed(template_tokenizer):
    tokenizer = template_tokenizer("chatml")
    tokenizer.add_tokens([AddedToken("<|tool|>", lstrip=True, rstrip=True, special=True)])
    found = finder(tokenizer)
    pieces = [Piece("four <|tool|>  four", [(5, 13), (15, 19)], [])] * (COMPARED + 10)
    assert same(found.find(pieces), found._slowly(pieces))


def test_much_text_goes_in_several_calls(chatml):
    found = finder(chatml)
    pieces = [Piece("four five " * 20_000, [(0, 4)], [5])] * 12
    assert same(found.find(pieces), found._slowly(pieces))


def as_llama(tokenizer):
    """A backend without a pre-tokenizer: all of a text is one word, with a mark for each space and one in front."""
    backend = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=["<unk>", "<|im_end|>"], show_progress=False)
    backend.train_from_iterator(["four user", "a four 123 user's", "aa four user"] * 9, trainer)
    return backend


BACKENDS = {
    "bytes": lambda tokenizer: finder(tokenizer)._backend,
    "composed": lambda tokenizer: finder(tokenizer, normalizer=normalizers.NFC())._backend,
    "no words": as_llama,
}


@pytest.mark.parametrize("name", BACKENDS)
def test_a_long_text_in_windows_has_the_tokens_of_the_whole(chatml, name):
    backend = BACKENDS[name](chatml)
    chosen = random.Random(1)
    text = "".join(chosen.choices(SIGNS, k=WINDOW))
    assert len(text) > 1.5 * WINDOW
    wanted = [*chosen.choices(range(len(text)), k=500), 0, len(text), *range(WINDOW, WINDOW + 5000)]
    [whole] = backend.encode_batch([text], add_special_tokens=False)
    ids, places = tokenised(text, wanted, lambda some: backend.encode_batch(some, add_special_tokens=False))
    assert ids.tolist() == whole.ids
    offsets = whole.offsets  # made anew each time
    starts = [start for start, _ in offsets]
    for place in wanted:
        first = bisect.bisect_left(starts, place)
        assert places[place] == (first, first > 0 and place < len(text) and offsets[first - 1][1] > place)


def test_windows_that_never_agree_are_given_up():
    """Pairs of a letter begin where its run does, and the second window begins within one."""
    backend = Tokenizer(models.BPE(vocab={"a": 0, "b": 1, "aa": 2}, merges=[("a", "a")]))
    long = Piece("b" + "a" * BATCH_CHARACTERS, [(0, BATCH_CHARACTERS + 1)])
    assert tokenised(long.text, [0], lambda some: backend.encode_batch(some, add_special_tokens=False)) is None
    [found] = Finder(backend).find([long])
    assert found.ids.tolist() == [1, *[2] * (BATCH_CHARACTERS // 2)]
    assert found.spans == [(0, len(found.ids))]


def test_long_texts_among_others(smollm2):
    """Each is found in its place, whichever way it went."""
    line = "The line has user hooks, größer ones: 3 cod.\n"
    long = line * (BATCH_CHARACTERS // len(line) + 1)
    pieces = [Piece(text, [(4, len(text))], [8]) for text in (line, long, line, line)]
    found = finder(smollm2).find(pieces)
    [alone] = finder(smollm2)._slowly([pieces[0]])
    assert all(one.agrees(alone) for one in (found[0], found[2], found[3]))
    assert found[1].ids.tolist() == list(alone.ids) * (len(long) // len(line))
    assert (found[1].spans, found[1].terminators) == ([(alone.spans[0][0], len(found[1].ids))], alone.terminators)
