"""Where tokens start: adding up their bytes says the same as the tokenizer's own account, or isn't used."""

import random

import pytest
from tokenizers import AddedToken, Tokenizer, normalizers, pre_tokenizers, processors

from longline.data.positions import COMPARED, Finder
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
