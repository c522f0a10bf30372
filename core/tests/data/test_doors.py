"""Formats and kinds of rows that another distribution brings: guessed, prepared, batched, shown and told of as the core's."""

import importlib
import sys

import pytest
import torch
import yaml

from longline.cli import run_cli
from longline.config.sections import DataSection
from longline.data import formats, prepare
from longline.data.collate import Collator
from longline.data.kinds import load
from longline.data.kinds.pair import PAIR
from longline.data.kinds.sample import SAMPLE
from longline.errors import ConfigError, DataError

MODULE = """
from typing import ClassVar

from longline import Column
from longline.data.formats import Format, Reader
from longline.data.kinds import Kind
from longline.data.kinds.sample import SAMPLE
from longline.data.values import Piece, RowError, Sample, TokenRow


class RatedKind(Kind):
    name: ClassVar[str] = "rated"
    rows: ClassVar[str] = "rated"
    unit: ClassVar[str] = "rated answers"
    beside: ClassVar = (Column("rating", dtype="float32"), Column("rater", dtype="text"), Column("levels", dtype="int8", width=2))

    def tensors(self, rows, ids, labels, collator):
        return {**super().tensors(rows, ids, labels, collator), "mean": sum(row["rating"] for row in rows) / len(rows)}


RATED = RatedKind()


def rated(row):
    if "said" not in row:
        raise RowError("nobody said anything")
    text = row["said"]
    return Sample((Piece(text, [(0, len(text))]),), {"rating": row["stars"], "rater": row["who"], "levels": [1, row["stars"]]})


def counted(row):
    ids = [int(part) for part in row["numbers"].split()]
    return Sample((TokenRow(ids, None),), columns={"place": list(range(len(ids)))})


STARS = Format("stars", RATED, "said, stars and who", ("all",), lambda found, names: "said" in found, lambda opened: Reader(rated))
NUMBERS = Format("numbers", SAMPLE, "numbers", ("all",), lambda found, names: "numbers" in found, lambda opened: Reader(counted))
BROKEN = 5
"""
ENTRIES = "[longline.formats]\nstars = foreign_rows:STARS\nnumbers = foreign_rows:NUMBERS\n"
RATED_ROWS = [{"said": "Hello there " * (number + 1), "stars": number, "who": f"user {number}"} for number in range(3)]


@pytest.fixture
def foreign(tmp_path, monkeypatch):
    """Two distributions as an installer leaves them: a module, and their metadata."""
    folder = tmp_path / "site"
    for name, entries in (("foreign_rows", ENTRIES), ("broken_rows", "[longline.formats]\nbroken = foreign_rows:BROKEN\n")):
        info = folder / f"{name}-1.2.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: 1.2\n")
        (info / "entry_points.txt").write_text(entries)
    (folder / "foreign_rows.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(folder))
    importlib.invalidate_caches()
    yield folder
    sys.modules.pop("foreign_rows", None)


def test_a_foreign_kind_is_prepared_and_batched(foreign, jsonl, chatml):
    kind = load("foreign_rows:RATED")
    section = DataSection(train={"path": jsonl(RATED_ROWS), "format": "stars"}, shuffle=False, keep="stars")
    for _ in range(2):
        data = prepare(section, chatml, kind=kind, seed=0)
        assert (data.report.layout, data.report.sources[0].format) == ("rated", "stars")
        rows = list(data.train)
        assert [(row["rating"], row["rater"], row["levels"]) for row in rows] == [
            (number, f"user {number}", [1, number]) for number in range(3)
        ]
        batch = Collator(0, kind, columns=data.columns)(rows)
        assert batch["mean"] == 1
        assert batch["rating"].tolist() == [0, 1, 2]
        assert batch["levels"].tolist() == [[1, 0], [1, 1], [1, 2]]
        assert batch["rater"] == ["user 0", "user 1", "user 2"]
        assert batch["completion_mask"].sum() == data.report.train.trained_tokens
        assert batch["columns"]["stars"].tolist() == [0, 1, 2]
    assert data.report.cache_hit
    module = foreign / "foreign_rows.py"
    module.write_text(module.read_text().replace("[1, row", "[2, row"))
    assert not prepare(section, chatml, kind=kind, seed=0).report.cache_hit
    with pytest.raises(DataError, match="rows of the kind 'rated' cannot be packed"):
        prepare(section, chatml, kind=kind, seed=0, packing="rows")


def test_a_foreign_kind_is_shown(foreign, jsonl, chatml):
    kind = load("foreign_rows:RATED")
    row = prepare(DataSection(train={"path": jsonl(RATED_ROWS), "format": "stars"}), chatml, kind=kind, seed=0).train[0]
    assert [part.length for part in kind.shown(row)] == [row["length"]]
    assert set(kind.values(row)) == {"rating", "rater", "levels"}


def test_a_format_aligns_columns_of_its_own(foreign, jsonl, chatml):
    path = jsonl([{"numbers": "5 6 7 8"}, {"numbers": "9 10"}])
    data = prepare(
        DataSection(train={"path": path, "format": "numbers"}, keep="place", shuffle=False), chatml, kind=SAMPLE, seed=0
    )
    assert (data.columns[0].align, data.columns[0].dtype) == ("token", "int64")
    batch = Collator(0, columns=data.columns)(list(data.train))
    assert torch.equal(batch["columns"]["place"], torch.tensor([[0, 1, 2, 3], [0, 1, 0, 0]]))


def test_auto_guesses_what_came_with_the_method(foreign, jsonl, chatml):
    section = DataSection(train=jsonl([{"numbers": "5 6 7 8"}]))
    assert prepare(section, chatml, kind=SAMPLE, seed=0, brought_by="foreign-rows").report.sources[0].format == "numbers"
    with pytest.raises(
        DataError, match=r"fit no format: .*\(broken, numbers, stars: installed, and to be named by `format:`\)"
    ):
        prepare(section, chatml, kind=SAMPLE, seed=0)


def test_a_format_of_another_kind_and_one_that_is_none(foreign, jsonl, chatml):
    section = DataSection(train={"path": jsonl(RATED_ROWS), "format": "stars"})
    with pytest.raises(DataError, match="the format 'stars' is for another method, and cpo, dpo"):
        prepare(section, chatml, kind=PAIR, seed=0)
    with pytest.raises(ConfigError, match=r"'broken' \(broken-rows 1.2\).* is a int, and must be an instance of Format"):
        formats.find("broken")


def test_a_kind_that_is_not_there():
    with pytest.raises(ConfigError, match=r"the kind of row 'longline\.data\.kinds\.pair:NOPE' cannot be imported"):
        load("longline.data.kinds.pair:NOPE")
    with pytest.raises(ConfigError, match="is a type, and must be an instance of"):
        load("longline.data.kinds.pair:PairKind")


def test_check_tells_of_a_format_that_is_not_installed(jsonl, chat, tmp_path, capsys):
    config = tmp_path / "config.yaml"
    data = {"train": [{"path": jsonl([chat()]), "format": "chta"}]}
    config.write_text(yaml.safe_dump({"model": {"path": "a/b"}, "data": data, "output_dir": "out"}))
    assert run_cli(["check", str(config)]) == 2
    assert "config.yaml:3:13: data.train.0.format: there is no format 'chta' (did you mean 'chat'?)" in capsys.readouterr().err


def test_preview_shows_further_columns(jsonl, chatml, tmp_path, capsys):
    chatml.save_pretrained(tmp_path / "tokenizer")
    rows = [{"input_ids": [5, 6, 7, 8], "labels": [-100, -100, 7, 8], "weight": [1, 2, 3, 4], "source": "web"}]
    data = {"train": jsonl(rows), "keep": ["weight", "source"]}
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({"model": {"path": str(tmp_path / "tokenizer")}, "data": data, "output_dir": "out"}))
    assert run_cli(["preview", str(config)]) == 0
    shown = capsys.readouterr().out
    assert "  weight, first trained tokens: [3, 4]\n" in shown
    assert '  source: "web"\n' in shown
    assert "kept weight: int64, one for each token" in shown
