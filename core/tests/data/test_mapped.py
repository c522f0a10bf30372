"""Names that a config maps: each is read by the format and is in the rows, or the source is refused with the nearest name."""

from __future__ import annotations

import json

import pytest

from longline.config.sections import ColumnsSection, DataSection
from longline.data import formats, prepare
from longline.data.kinds.labelled import LABELLED
from longline.data.kinds.pair import PAIR
from longline.data.kinds.prompt import PROMPT
from longline.data.kinds.sample import SAMPLE
from longline.data.mapped import WatchedColumns
from longline.data.pipeline import GUESS_ROWS
from longline.errors import DataError

TALK = [{"speaker": "user", "said": "Hello"}, {"speaker": "assistant", "said": "Fine.", "learn": True}]
MESSAGES = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Fine."}]


@pytest.fixture
def data_of(jsonl, chatml):
    """Prepare rows, of whatever kind the format gives."""

    def run(rows, columns, format_="auto", kind=SAMPLE, **options):
        source = {"path": jsonl(rows), "columns": columns, "format": format_}
        return prepare(DataSection(train=[source], shuffle=False, **options), chatml, kind=kind, seed=0)

    return run


WRONG = [
    ({"messages": MESSAGES, "system_prompt": "Be kind."}, {"system": "sytem_prompt"}, "chat", SAMPLE,
     "columns.system: no row has a column 'sytem_prompt' (did you mean 'system_prompt'?)"),
    ({"messages": MESSAGES, "reply": "x"}, {"completion": "reply"}, "chat", SAMPLE,
     "columns.completion: the format 'chat' does not read it (it reads messages, role, content, system, tools, train)"),
    ({"messages": TALK}, {"role": "speeker", "content": "said"}, "chat", SAMPLE,
     "columns.role: no row and no message has a key 'speeker' (did you mean 'speaker'?)"),
    ({"turns": MESSAGES}, {"messages": "turn"}, "auto", SAMPLE,
     "columns.messages: no row has a column 'turn' (did you mean 'turns'?)"),
    ({"text": "Hello there"}, {"text": "txet"}, "completion", SAMPLE, "columns.text: no row and no message has a key 'txet' (did"),
    ({"text": "Hello", "who": "me"}, {"role": "who"}, "completion", SAMPLE,
     "columns.role: the format 'completion' does not read it"),
    ({"prompt": "a", "completion": "b", "weight": 1}, {"train": "weight"}, "prompt_completion", SAMPLE,
     "columns.train: the format 'prompt_completion' does not read it"),
    ({"instruction": "a", "output": "b", "ctx": "c"}, {"input": "cxt"}, "alpaca", SAMPLE,
     "columns.input: no row has a column 'cxt'"),
    ({"instruction": "a", "output": "b", "who": "c"}, {"role": "who"}, "alpaca", SAMPLE,
     "columns.role: the format 'alpaca' does not read it (it reads system, tools, instruction, input, output)"),
    ({"segments": [{"text": "a", "train": True}], "said": "x"}, {"content": "said"}, "segments", SAMPLE,
     "columns.content: the format 'segments' does not read it"),
    ({"input_ids": [5, 6], "label": [5, 6]}, {"labels": "labls"}, "tokenized", SAMPLE,
     "columns.labels: no row has a column 'labls' (did you mean 'label'?)"),
    ({"input_ids": [5, 6], "label": [5, 6]}, {"label": "label"}, "tokenized", SAMPLE,
     "columns.label: the format 'tokenized' does not read it (did you mean 'labels'?)"),
    ({"prompt": "a", "chosen": "b", "rejected": "c", "out": "d"}, {"output": "out"}, "preference", PAIR,
     "columns.output: the format 'preference' does not read it"),
    ({"prompt": "a", "completion": "b", "label": True, "best": "c"}, {"chosen": "best"}, "unpaired", LABELLED,
     "columns.chosen: the format 'unpaired' does not read it"),
    ({"prompt": "a", "answer": "b"}, {"completion": "answer"}, "prompts", PROMPT,
     "columns.completion: the format 'prompts' does not read it"),
    ({"prompt": "a", "answer": ""}, {"prompt": ""}, "prompts", PROMPT, "columns.prompt: no row has a column ''"),
]  # fmt: skip


@pytest.mark.parametrize(("row", "columns", "format_", "kind", "message"), WRONG)
def test_a_name_that_is_mapped_in_vain_is_refused(data_of, row, columns, format_, kind, message):
    with pytest.raises(DataError) as caught:
        data_of([row], columns, format_, kind)
    assert f"rows.jsonl: {message}" in str(caught.value)


def test_all_names_are_told_at_once(data_of):
    with pytest.raises(DataError, match=r"columns\.tools: no row has .*; columns\.output: the format 'chat' does not"):
        data_of([{"messages": MESSAGES}], {"tools": "functions", "output": "messages"})


def test_names_that_are_read_and_there_are_taken(data_of):
    columns = {"messages": "turns", "role": "speaker", "content": "said", "train": "learn", "system": "rules", "tools": "uses"}
    rows = [{"turns": TALK}] * (GUESS_ROWS + 5) + [{"turns": TALK, "rules": "Be kind.", "uses": []}]
    data = data_of(rows, columns)  # what few rows have is found in them
    assert data.report.sources[0].kept == len(rows)
    assert len(data.train[len(rows) - 1]["input_ids"]) > len(data.train[0]["input_ids"])
    with pytest.raises(DataError, match=r"columns\.tools: no row has a column 'used' \(did you mean 'uses'\?\)"):
        data_of(rows, {**columns, "tools": "used"})
    assert (
        data_of([{"segments": [{"piece": "Hello there, how are you?", "train": True}]}], {"text": "piece"})
        .report.sources[0]
        .kept
        == 1
    )
    pair = {"asked": "a", "chosen": {"who": "assistant", "content": "b"}, "rejected": {"who": "assistant", "content": "c"}}
    assert data_of([pair], {"question": "asked", "role": "who"}, "preference", PAIR).report.sources[0].kept == 1


def test_a_broken_row_is_told_where_it_would_have_read_a_name(data_of):
    with pytest.raises(DataError, match=r"rows\.jsonl:1: the messages are null"):
        data_of([{"messages": None, "rules": "Be kind."}], {"system": "rules"})


FORMAT = """
from longline.data.formats import Format, Reader
from longline.data.kinds.sample import SAMPLE
from longline.data.values import Piece, Sample


def opened(source):
    def sample(row):
        text = row[source.names.text or "text"]
        return Sample((Piece(text, [(0, len(text))]),))
    return Reader(sample)


PLAIN = Format("plain", SAMPLE, "text", ("all",), lambda found, names: False, opened)
"""


def test_formats_of_other_distributions_are_watched_too(data_of, tmp_path, monkeypatch):
    info = tmp_path / "plain_rows-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plain-rows\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[longline.formats]\nplain = plain_rows:PLAIN\n")
    (tmp_path / "plain_rows.py").write_text(FORMAT)
    monkeypatch.syspath_prepend(str(tmp_path))
    rows = [{"said": "Hello there", "system": "Be kind."}]
    assert data_of(rows, {"text": "said"}, "plain").report.sources[0].kept == 1
    with pytest.raises(DataError, match=r"columns\.system: the format 'plain' does not read it \(it reads text\)"):
        data_of(rows, {"text": "said", "system": "system"}, "plain")


def test_columns_that_are_kept_must_be_there(data_of):
    row = {"messages": MESSAGES, "source": "web", "score": 1.5}
    assert [column.name for column in data_of([row], {}, keep=["source", "score"]).columns] == ["source", "score"]
    for keep in ("scores", {"name": "scores", "dtype": "float32"}):
        with pytest.raises(DataError) as caught:
            data_of([row], {}, keep=[keep])
        expected = "the column 'scores' is to be kept and is not there (did you mean 'score'?)"
        assert str(caught.value).endswith(f"rows.jsonl: {expected}")


def test_what_watches_names_is_a_section_like_any(data_of):
    names = WatchedColumns(text="said")
    assert isinstance(names, ColumnsSection)
    assert (names.text, names.role, names.read()) == ("said", None, ["role", "text"])
    assert json.loads(WatchedColumns(text="said").model_dump_json())["text"] == "said"
    assert formats.find("completion").fits({"said"}, names)
