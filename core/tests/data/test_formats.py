"""Every format becomes the tokens and masks that it means; broken rows say what is wrong with them."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from longline.config.sections import DataSection
from longline.data import prepare
from longline.data.kinds.sample import SAMPLE
from longline.errors import DataError


@pytest.fixture
def prepared(jsonl, chatml, marked):
    """Prepare rows (or a path) and return the marked text of every row, and the report."""

    def run(rows, tokenizer=chatml, **options):
        source = {key: options.pop(key) for key in ("format", "columns", "field", "roles", "limit", "weight") if key in options}
        path = rows if isinstance(rows, str) else jsonl(rows)
        section = DataSection(train=[{"path": path, **source}], shuffle=False, **options)
        data = prepare(section, tokenizer, kind=SAMPLE, seed=0)
        return [marked(tokenizer, row["input_ids"], row["labels"]) for row in data.train], data.report.sources[0]

    return run


USER, END, BOT = "<|im_start|>user\n", "<|im_end|>\n", "<|im_start|>assistant\n"
TALK = [f"{USER}Hello{END}{BOT}⟦Fine.<|im_end|>⟧\n"]
MESSAGES = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Fine."}]


@pytest.mark.parametrize(
    ("row", "options"),
    [
        ({"messages": MESSAGES}, {}),
        ({"conversations": [{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "Fine."}]}, {}),
        ({"conversation": [{"role": "prompter", "content": "Hello"}, {"role": "bot", "content": "Fine."}]}, {}),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "Hel"}, {"text": "lo"}]}, MESSAGES[1]]}, {}),
        ({"chat": [{"who": "me", "says": "Hello"}, {"who": "you", "says": "Fine."}]},
         {"columns": {"messages": "chat", "role": "who", "content": "says"}, "roles": {"me": "user", "you": "assistant"}}),
        ({"instruction": "Hello", "input": "", "output": "Fine."}, {}),
        ({"instruction": "Hello", "input": None, "output": "Fine."}, {}),
        ({"q": "Hello", "a": "Fine."}, {"columns": {"instruction": "q", "output": "a"}}),
        ({"prompt": MESSAGES[:1], "completion": MESSAGES[1:]}, {}),
        ({"messages": MESSAGES, "system": "", "tools": None}, {}),
    ],
)  # fmt: skip
def test_forms_of_one_conversation(prepared, row, options):
    texts, report = prepared([row], **options)
    assert texts == TALK
    assert report.guessed


def test_system_and_tools_columns(prepared, template_tokenizer):
    row = {"messages": MESSAGES, "system": "Be kind.", "tools": '[{"type": "function", "function": {"name": "add"}}]'}
    [text], _ = prepared([row], template_tokenizer("qwen2_5"))
    assert text.startswith(
        "<|im_start|>system\nBe kind.\n\n# Tools\n<tools>\n" + '{"type": "function", "function": {"name": "add"}}'
    )


def test_alpaca_with_input_and_without_a_template(prepared, template_tokenizer):
    row = {"instruction": "Add", "input": "1 2", "output": "3"}
    assert prepared([row])[0] == [f"{USER}Add\n\n1 2{END}{BOT}⟦3<|im_end|>⟧\n"]
    [text], report = prepared([row], template_tokenizer(None))
    assert text.endswith("### Instruction:\nAdd\n\n### Input:\n1 2\n\n### Response:\n⟦3</s>⟧")
    assert report.note == "with the Alpaca prompt: no chat template"


def test_prompt_completion_as_text(prepared, template_tokenizer):
    rows = [{"prompt": "Two plus two is", "completion": " four."}, {"prompt": "", "completion": "And three?"}]
    tokenizer = template_tokenizer(None)
    assert prepared(rows, tokenizer)[0][0] == "Two plus two is⟦ four.</s>⟧"
    assert prepared(rows, tokenizer, add_eos=False)[0][0] == "Two plus two is⟦ four.⟧"
    assert prepared(rows, tokenizer, train_on="all")[0][0].endswith("o plus two is four.</s>⟧")
    assert prepared(rows, tokenizer)[0][1].endswith("three?</s>⟧")


def test_completion_has_first_and_last_tokens_of_the_tokenizer(prepared, template_tokenizer):
    tokenizer = template_tokenizer(None)
    assert prepared([{"text": "It is four."}], tokenizer)[0][0].endswith(" is four.</s>⟧")
    from tokenizers.processors import TemplateProcessing

    bos = tokenizer.convert_tokens_to_ids("<s>")
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", bos)]
    )
    assert prepared([{"text": "It is four."}], tokenizer)[0] == ["<s>⟦It is four.</s>⟧"]
    assert prepared([{"text": "<s>It is four.</s>"}], tokenizer)[0] == ["<s>⟦It is four.</s>⟧"]


def test_segments(prepared, template_tokenizer):
    row = {"segments": [{"text": "Q:", "train": False}, {"text": " four", "train": True}, {"text": " and", "train": False},
                        {"text": " six", "train": True}]}  # fmt: skip
    assert prepared([row], template_tokenizer(None))[0] == ["Q:⟦ four⟧ and⟦ six⟧"]
    row = {"parts": [{"t": "Q:", "learn": False}, {"t": " four", "learn": True}]}
    columns = {"segments": "parts", "text": "t", "train": "learn"}
    assert prepared([row], template_tokenizer(None), format="segments", columns=columns)[0] == ["Q:⟦ four⟧"]


def test_a_token_across_a_border_is_masked_and_reported(jsonl, template_tokenizer, marked):
    tokenizer = template_tokenizer(None)
    section = DataSection(train=jsonl([{"prompt": "Two plus two is ", "completion": "four."}]))
    data = prepare(section, tokenizer, kind=SAMPLE, seed=0)
    row = data.train[0]
    assert marked(tokenizer, row["input_ids"], row["labels"]) == "Two plus two is four⟦.</s>⟧"
    assert data.report.sources[0].straddling == 1
    assert "in 1 rows a token joins the end of what is masked" in data.report.warnings[0]


def test_tokenized(prepared, chatml):
    ids = chatml("What is two plus two?")["input_ids"]
    labels = [-100] * 3 + ids[3:]
    path_rows = [{"input_ids": ids, "labels": labels}, {"input_ids": ids}]
    texts, report = prepared(path_rows)
    assert texts[0].replace("⟦", "").replace("⟧", "") == "What is two plus two?"
    assert report.trained_tokens == (len(ids) - 3) + (len(ids) - 1)


def test_per_message_override(prepared):
    messages = [*MESSAGES, {"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Well.", "train": False}]
    [text], _ = prepared([{"messages": messages}])
    assert text == f"{USER}Hello{END}{BOT}⟦Fine.<|im_end|>⟧\n{USER}Hello{END}{BOT}Well.{END}"
    renamed = [{**message, "weight": int(message.pop("train", True))} for message in messages]
    assert prepared([{"messages": renamed[1::2]}], columns={"train": "weight"})[0][0].count("⟦") == 1


def test_train_on_of_data_and_of_a_source(jsonl, chatml, marked):
    path = jsonl([{"messages": MESSAGES * 2}])
    section = DataSection(
        train=[{"path": path}, {"path": path, "train_on": "assistant"}], train_on="last_assistant", shuffle=False
    )
    rows = prepare(section, chatml, kind=SAMPLE, seed=0).train
    assert [marked(chatml, row["input_ids"], row["labels"]).count("⟦") for row in rows] == [1, 2]


def test_tool_calls_of_any_shape(prepared, template_tokenizer):
    """Arguments as mapping and as JSON text mean the same; keys of one row never appear in another."""

    def row(arguments, **extra):
        call = {"id": "1", "type": "function", "function": {"name": "add", "arguments": arguments}}
        return {"messages": [MESSAGES[0], {"role": "assistant", "content": None, "tool_calls": [call], **extra},
                             {"role": "tool", "tool_call_id": "1", "content": "3"}, MESSAGES[1]]}  # fmt: skip

    texts, _ = prepared(
        [row({"a": 1}), row('{"a": 1}'), row({"b": None}), {"messages": MESSAGES}], template_tokenizer("qwen2_5")
    )
    assert texts[0] == texts[1]
    assert '⟦<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call><|im_end|>⟧' in texts[0]
    assert '"arguments": {"b": null}' in texts[2]
    assert "tool" not in texts[3]


def test_sharegpt_function_calls(prepared, template_tokenizer):
    talk = [{"from": "human", "value": "Hello"}, {"from": "function_call", "value": '{"name": "add", "arguments": {"a": 1}}'},
            {"from": "observation", "value": "3"}, {"from": "gpt", "value": "Fine."}]  # fmt: skip
    [text], _ = prepared([{"conversations": talk}], template_tokenizer("qwen2_5"))
    assert '⟦<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call><|im_end|>⟧' in text
    assert "<tool_response>\n3\n</tool_response>" in text


def test_parquet_nulls_mean_absent_keys(prepared, tmp_path, template_tokenizer):
    """Arrow gives every message every key: a null `tool_calls` or argument must not reach the template."""
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    other = {"type": "function", "function": {"name": "sub", "arguments": {"b": 2}}}
    result = {"role": "tool", "content": "3"}
    rows = [
        {"messages": [MESSAGES[0], {"role": "assistant", "content": None, "tool_calls": [one]}, result, MESSAGES[1]]}
        for one in (call, other)
    ]
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    assert pq.read_table(path).to_pylist()[0]["messages"][0]["tool_calls"] is None
    texts, _ = prepared(str(path), template_tokenizer("qwen2_5"))
    assert texts == prepared(rows, template_tokenizer("qwen2_5"))[0]
    assert '"arguments": {"a": 1}}' in texts[0]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"a": 1, "b": 2}, "the columns a, b fit no format: alpaca needs instruction"),
        ({"messages": MESSAGES, "text": "x"}, "can be read as chat or completion"),
        ({"prompt": "a", "answer": "b"}, "answer, prompt fit no format"),
    ],
)
def test_auto_refuses_what_is_unclear(prepared, row, message):
    with pytest.raises(DataError, match=message):
        prepared([row])


def test_a_train_on_that_means_nothing_is_refused(prepared):
    with pytest.raises(DataError, match="train_on 'assistant' means nothing for the format 'completion'"):
        prepared([{"text": "a"}], train_on="assistant")


def test_a_chat_needs_a_template(prepared, template_tokenizer):
    with pytest.raises(DataError, match="a chat needs a chat template"):
        prepared([{"messages": MESSAGES}], template_tokenizer(None))


SURROGATE_CHAT = '{"messages": [{"role": "user", "content": "\\udc00"}, {"role": "assistant", "content": "b"}]}'
BROKEN_CHATS = [
    ('{"messages": [', "invalid JSON"),
    ("[]", "the row is a list, not a mapping"),
    ({"other": 1}, "the field 'messages' is missing (found: other)"),
    ({"messages": None}, "the messages are null"),
    ({"messages": "Hello"}, "the messages are text that is no JSON"),
    ({"messages": '"Hello"'}, "the messages are a str, not a list"),
    ({"messages": []}, "there are no messages"),
    ({"messages": ["Hello"]}, "message 1 is a str, not a mapping"),
    ({"messages": [{"content": "Hello"}]}, "message 1 has no 'role' (found: content)"),
    ({"messages": [{"role": "owner", "content": "Hello"}]}, "message 1: the role 'owner' is not known; map it with `roles:`"),
    ({"messages": [{"role": None, "content": "Hello"}]}, "message 1: the role None is not known"),
    ({"messages": [{"role": ["user"], "content": "Hello"}]}, "message 1: the role ['user'] is not known"),
    ({"messages": [MESSAGES[0], {"role": "assistant"}]}, "message 2 (assistant): 'content' is missing"),
    ({"messages": [MESSAGES[0], {"role": "assistant", "content": None}]}, "message 2 (assistant): 'content' is null"),
    ({"messages": [MESSAGES[0], {"role": "assistant", "content": " \n"}]}, "message 2 (assistant): 'content' is empty"),
    ({"messages": [MESSAGES[0], {"role": "assistant", "content": 4}]}, "message 2 (assistant): 'content' is a int, not text"),
    ({"messages": [{"role": "user", "content": [{"type": "image", "url": "x"}]}, MESSAGES[1]]},
     "message 1: a content part of type 'image' is not text"),
    ({"messages": MESSAGES[:1]}, "no message is by the assistant"),
    ({"messages": [MESSAGES[0], {**MESSAGES[1], "train": "yes"}]}, "message 2: 'train' must be true or false"),
    ({"messages": MESSAGES, "system": 3}, "the field 'system' is a int, not text"),
    ({"messages": MESSAGES, "tools": "{"}, "the field 'tools' is not valid JSON"),
    ({"messages": [MESSAGES[0], {"role": "assistant", "tool_calls": "add"}]},
     "message 2: 'tool_calls' must be a list of mappings"),
]  # fmt: skip


@pytest.mark.parametrize(("row", "message"), BROKEN_CHATS)
def test_broken_chat_rows_are_named_with_their_line(prepared, row, message):
    rows = [{"messages": MESSAGES}, row, {"messages": MESSAGES}]
    with pytest.raises(DataError) as caught:
        prepared(rows)
    assert f"rows.jsonl:2: {message}" in str(caught.value)
    texts, report = prepared(rows, on_bad_row="skip")
    assert texts == TALK * 2
    assert (report.rows, report.bad, report.kept) == (3, 1, 2)
    assert f"rows.jsonl:2: {message}" in str(report.bad_rows[0])


@pytest.mark.parametrize(
    ("good", "bad", "message"),
    [
        ({"text": "a b"}, {"text": None}, "the field 'text' is null"),
        ({"text": "a b"}, '{"text": "a \\ud83d b"}', "the text holds half of a surrogate pair"),
        ({"messages": MESSAGES}, SURROGATE_CHAT, "half of a"),
        ({"text": "a b"}, {"text": "  "}, "the field 'text' is empty"),
        ({"text": "a b"}, {"text": 3}, "the field 'text' is a int, not text"),
        ({"text": "a b"}, {}, "the field 'text' is missing (found: none)"),
        ({"prompt": "a", "completion": "b"}, {"prompt": "a", "completion": ""}, "the field 'completion' is empty"),
        ({"prompt": "a", "completion": "b"}, {"prompt": "a"}, "the field 'completion' is missing (found: prompt)"),
        ({"prompt": "a", "completion": "b"}, {"prompt": [], "completion": "a"}, "there are no messages"),
        ({"instruction": "a", "output": "b"}, {"instruction": "a", "output": None}, "the field 'output' is null"),
        ({"segments": [{"text": "ab cd", "train": True}]}, {"segments": []}, "the field 'segments' must be a list"),
        (
            {"segments": [{"text": "ab cd", "train": True}]},
            {"segments": [{"text": "a"}]},
            "piece 1: 'train' must be true or false",
        ),
        ({"segments": [{"text": "ab cd", "train": True}]}, {"segments": [{"text": "", "train": True}]}, "all pieces are empty"),
        ({"input_ids": [1, 2]}, {"input_ids": []}, "must be a list of integers"),
        ({"input_ids": [1, 2]}, {"input_ids": [1, "2"]}, "token id 2 is '2', a str"),
        ({"input_ids": [1, 2]}, {"input_ids": [1, True]}, "token id 2 is 'True', a bool"),
        ({"input_ids": [1, 2]}, {"input_ids": [1, 2], "labels": [1]}, "2 token ids, but 1 labels"),
        ({"input_ids": [1, 2]}, {"input_ids": [1, 2], "labels": [1, -3]}, None),
        (
            {"input_ids": [1, 2]},
            {"input_ids": [1, 99_999_999]},
            "token id 2 is 99999999, which is not in the vocabulary of 344",
        ),
    ],
)
def test_broken_rows_of_other_formats(prepared, good, bad, message):
    if message is None:
        _, report = prepared([good, bad])
        assert report.untrained == 1
        return
    with pytest.raises(DataError) as caught:
        prepared([good, bad])
    assert f"rows.jsonl:2: {message}" in str(caught.value) or message in str(caught.value)
    assert "rows.jsonl:2:" in str(caught.value)


def test_a_row_that_the_template_refuses_is_a_bad_row(prepared, template_tokenizer):
    rows = [{"messages": MESSAGES}, {"messages": [{"role": "system", "content": "Be kind."}, *MESSAGES]}]
    with pytest.raises(DataError, match=r"rows.jsonl:2: the chat template refuses it: System role not supported"):
        prepared(rows, template_tokenizer("gemma2"))


def test_the_first_twenty_bad_rows_are_listed(prepared):
    with pytest.raises(DataError) as caught:
        prepared([{"messages": MESSAGES}] + [{"messages": None}] * 25)
    text = str(caught.value)
    assert text.startswith("25 rows can't be used:")
    assert text.count("the messages are null") == 20
    assert "rows.jsonl:21:" in text
    assert "rows.jsonl:22:" not in text
    assert "and 5 more" in text


def test_first_row_broken_still_guesses_from_the_others(prepared):
    texts, report = prepared(["{", {"messages": MESSAGES}], on_bad_row="skip")
    assert texts == TALK
    assert (report.format, report.bad) == ("chat", 1)


def test_no_rows_and_no_readable_row(prepared, jsonl):
    with pytest.raises(DataError, match="there are no rows"):
        prepared(jsonl([""]))
    with pytest.raises(DataError, match=r"rows.jsonl:1: invalid JSON"):
        prepared(["{"])


ASKED = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Two?"}]
ANSWER = [{"role": "assistant", "content": "Four."}]


@pytest.mark.parametrize(
    "row",
    [
        {"input": ASKED, "ideal": "Four."},
        {"input": ASKED, "ideal": ["Four.", "4"]},
        {"prompt": ASKED, "completion": "Four."},
        {"prompt": ASKED, "completion": ANSWER[0]},
        {"prompt": ASKED[1], "completion": "Four.", "system": "Be brief."},
        {"prompt": "Two?", "completion": ANSWER, "system": "Be brief."},
    ],
)
def test_messages_and_a_text_in_columns_of_their_own(prepared, row):
    [whole], _ = prepared([{"prompt": ASKED, "completion": ANSWER}])
    [text], report = prepared([row])
    assert text == whole
    assert report.format == "prompt_completion"
    assert ("the first of several answers is taken" in report.notices) == isinstance(row.get("ideal"), list)


def test_messages_and_an_answer_whose_columns_are_mapped(prepared, jsonl):
    [whole], _ = prepared([{"prompt": ASKED, "completion": ANSWER}])
    rows = [{"messages": ASKED, "reply": "Four."}] * 3
    with pytest.raises(DataError) as caught:
        prepared(rows)
    assert "none of its 3 rows can be used, all for one reason" in str(caught.value)
    assert "columns: {prompt: ..., completion: ...}" in str(caught.value)
    assert prepared(rows, columns={"prompt": "messages", "completion": "reply"})[0] == [whole] * 3
    said = [{"role": item["role"], "said": item["content"]} for item in ASKED]
    names = {"content": "said"}
    assert prepared([{"input": said, "ideal": "Four."}], columns=names)[0] == [whole]
    plain, _ = prepared([{"input": "Two?", "ideal": [" Four.", " 4"]}])
    assert plain == prepared([{"prompt": "Two?", "completion": " Four."}])[0]


def test_rows_that_all_fail_alike_are_told_of_once(prepared):
    rows = [{"messages": [{"speaker": "a", "said": str(number)}]} for number in range(30)]
    with pytest.raises(DataError) as caught:
        prepared(rows)
    said = str(caught.value)
    assert said.count("has no 'role'") == 1
    assert "none of its 30 rows can be used" in said
    assert "columns: {role: ...}" in said
    with pytest.raises(DataError, match="2 rows can't be used"):
        prepared([*rows[:2], {"messages": MESSAGES}])
    with pytest.raises(DataError, match="3 rows can't be used"):
        prepared([*rows[:2], {"messages": None}])


LONG = "x" * 100_000


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [{"role": LONG, "content": "a"}]},
        {"messages": [{LONG: "user"}]},
        {"messages": LONG},
        {"messages": [{"role": "user", "content": [{"type": LONG}]}]},
        {LONG: 1},
        {f"{LONG[:50]}{number}": 1 for number in range(5000)},
        {"prompt": "a\n\x1b[31m" * 5000, "completion": 1},
        {"segments": [{"text": "a", "train": LONG}]},
    ],
)
@pytest.mark.parametrize("alike", [True, False])
def test_no_message_is_longer_than_a_screen(prepared, row, alike):
    others = [] if alike else [{**row, "messages": [{"role": LONG[number:], "content": "a"}]} for number in range(300)]
    with pytest.raises(DataError) as caught:
        prepared([row] * 300 + others)
    said = str(caught.value)
    assert len(said) < 3500
    assert said.count("\n") < 25
    assert "\x1b" not in said


def test_messages_that_a_table_holds_as_text(prepared, tmp_path):
    messages = [{"role": "user", "content": "Two?"}, {"role": "assistant", "content": "Four."}]
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"messages": [json.dumps(messages)]}), path)
    [text], report = prepared(str(path))
    assert [text] == prepared([{"messages": messages}])[0]
    assert list(report.notices) == ["messages are JSON in a text"]


def test_splits_in_one_object_are_pointed_to(prepared, tmp_path):
    path = tmp_path / "splits.json"
    rows = [{"prompt": "a", "completion": "b"}, {"prompt": "c", "completion": "d"}]
    path.write_text(json.dumps({"train": rows, "test": rows[:1]}), encoding="utf-8")
    with pytest.raises(DataError, match="fit no format") as told:
        prepared(str(path))
    assert "`field: train`" in str(told.value.hint)
    assert len(prepared(str(path), field="train")[0]) == 2
