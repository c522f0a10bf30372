"""What of a row its text lacks: told with a count and an example, or refused where it is what should be learnt."""

import json

import pytest

from longline.config.sections import DataSection
from longline.data import prepare
from longline.data.kinds.pair import PAIR
from longline.data.kinds.sample import SAMPLE
from longline.data.summary import summary
from longline.errors import DataError

ASKED = {"role": "user", "content": "What is two plus two?"}
ANSWER = {"role": "assistant", "content": "It is four."}
THOUGHT = {**ANSWER, "reasoning_content": "Add two and two."}
INSIDE = {**ANSWER, "content": "<think>\nAdd two and two.\n</think>\n\nIt is four."}
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}]
EARLIER = "an earlier answer is learnt without its reasoning, which the chat template leaves out there"


@pytest.fixture
def prepared(jsonl, template_tokenizer, marked):
    """The learnt texts of rows under a template, and the report."""

    def prepare_rows(rows, template="chatml", kind=SAMPLE, **options):
        tokenizer = template_tokenizer(template)
        data = prepare(DataSection(train=[jsonl(rows)], cache=False, shuffle=False, **options), tokenizer, kind=kind, seed=0)
        return [marked(tokenizer, row["input_ids"], row["labels"]) for row in data.train], data.report

    return prepare_rows


def chat(*messages, **columns):
    return {"messages": list(messages), **columns}


# --- reasoning ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "answer"),
    [
        ("chatml", THOUGHT),
        ("llama3_2", THOUGHT),
        ("mistral_v3", THOUGHT),
        ("deepseek_r1", INSIDE),
        ("chatml", {**ANSWER, "thinking": "Add."}),
    ],
)
def test_an_answer_is_not_learnt_without_its_reasoning(prepared, template, answer):
    with pytest.raises(DataError, match=r":2: message 2: the chat template leaves out its reasoning \('Add"):
        prepared([chat(ASKED, ANSWER), chat(ASKED, answer)], template)
    _, report = prepared([chat(ASKED, answer)] * 3, template, allow_dropped=["reasoning"])
    assert not report.warnings
    assert any("in 3 rows an answer is learnt without its reasoning (" in line for line in summary(report))
    # Of an answer that is not learnt nothing is lost.
    _, report = prepared([chat(ASKED, {**answer, "train": False}, ASKED, ANSWER)], template)
    assert not report.warnings


@pytest.mark.parametrize("answer", [THOUGHT, INSIDE])
def test_what_a_template_writes_is_learnt_without_a_word(prepared, answer):
    [text], report = prepared([chat(ASKED, answer)], "qwen3")
    assert "⟦<think>\nAdd two and two.\n</think>\n\nIt is four.<|im_end|>⟧" in text
    assert report.sources[0].notices == {}


@pytest.mark.parametrize("answer", [THOUGHT, INSIDE])
def test_earlier_answers_without_their_thoughts_are_told(prepared, answer):
    rows = [chat(ASKED, answer, ASKED, answer), chat(ASKED, ANSWER, ASKED, answer), chat(ASKED, answer, ASKED, answer)]
    _, report = prepared(rows, "qwen3")
    [warning] = report.warnings
    assert f"in 2 rows {EARLIER}; `train_on: last_assistant` learns the last answer alone" in warning
    assert "'Add two and two.'" in warning
    texts, report = prepared(rows, "qwen3", train_on="last_assistant")
    assert not report.warnings
    assert [text.count("⟦") for text in texts] == [1, 1, 1]


def test_a_thought_that_is_also_the_answer_is_missed(prepared):
    with pytest.raises(DataError, match="leaves out its reasoning"):
        prepared([chat(ASKED, {"role": "assistant", "content": "four", "reasoning": "four"})])


def test_pairs_keep_their_reasoning_too(prepared):
    row = {"prompt": [ASKED], "chosen": [THOUGHT], "rejected": [{**ANSWER, "content": "Five."}]}
    with pytest.raises(DataError, match=":1: message 2: the chat template leaves out its reasoning"):
        prepared([row], kind=PAIR)


# --- tools, system prompts, keys ------------------------------------------------------------------------------------------------


def test_tools_that_a_template_ignores_are_told(prepared):
    rows = [chat(ASKED, ANSWER, tools=TOOLS), chat(ASKED, ANSWER), chat(ASKED, ANSWER, tools=TOOLS)]
    _, report = prepared(rows)
    assert "in 2 rows the chat template leaves out the definitions of tools (" in report.warnings[0]
    assert prepared(rows, "qwen2_5")[1].warnings == []
    assert prepared(rows, allow_dropped=["tools"])[1].warnings == []


def test_a_system_column_beside_another_system_message_is_told(prepared):
    system = {"role": "system", "content": "Be kind."}
    same, other = chat(system, ASKED, ANSWER, system="Be kind."), chat(system, ASKED, ANSWER, system="Be brief.")
    assert prepared([same])[1].warnings == []
    _, report = prepared([other, same])
    assert "in 1 row the system prompt of a column is left out: the messages begin with another one (" in report.warnings[0]
    assert "'Be brief.'" in report.warnings[0]


def test_columns_beside_plain_text_are_told(prepared):
    _, report = prepared([{"prompt": "Two plus two is", "completion": " four.", "system": "Be brief."}])
    assert "in 1 row system is left out: plain text does not go through the chat template" in "".join(report.warnings)
    _, report = prepared([{"instruction": "Add", "output": "four", "system": "Be brief."}], None)
    assert "system is left out" in "".join(report.warnings)
    assert "Be brief." in prepared([{"instruction": "Add", "output": "four", "system": "Be brief."}])[0][0]


NAMED = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + (' ' + m.name if m.name and m.role == 'user' else '') + '\n' }}"
    "{{ m.content + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def test_keys_of_messages_that_nobody_reads_are_told_once(prepared, jsonl, template_tokenizer):
    rows = [chat({**ASKED, "name": "Ann"}, {**ANSWER, "score": 3, "refusal": None, "annotations": []})] * 20
    rows += [chat(ASKED, {"role": "tool", "content": "3", "tool_call_id": "1", "name": "add"}, ANSWER)]
    _, report = prepared(rows)
    assert sorted(text.partition(": ")[2].partition(" (")[0] for text in report.warnings) == [
        "in 20 rows nobody reads the key 'name' of a message of the user",
        "in 20 rows nobody reads the key 'score' of a message of the assistant",
    ]
    tokenizer = template_tokenizer("chatml")
    tokenizer.chat_template = NAMED
    report = prepare(DataSection(train=[jsonl(rows)], cache=False), tokenizer, kind=SAMPLE, seed=0).report
    assert ["'score'" in text for text in report.warnings] == [True]


# --- OpenAI's keys, and calls ---------------------------------------------------------------------------------------------------


def test_a_weight_of_zero_is_not_learnt(prepared):
    talk = [ASKED, {**ANSWER, "weight": 0}, ASKED, {**ANSWER, "weight": 1}]
    [text], report = prepared([chat(*talk)])
    assert text.count("⟦") == 1
    assert text.endswith("⟦It is four.<|im_end|>⟧\n")
    assert report.warnings == []
    with pytest.raises(DataError, match=r"message 2: 'weight' must be 0 \(not learnt\) or 1"):
        prepared([chat(ASKED, {**ANSWER, "weight": 0.5})])


def test_function_call_and_functions_are_read(prepared):
    call = {"role": "assistant", "content": "Let me add.", "function_call": {"name": "add", "arguments": '{"a": 2}'}}
    row = chat(ASKED, call, {"role": "function", "name": "add", "content": "4"}, ANSWER)
    [text], report = prepared([{**row, "functions": [TOOLS[0]["function"]]}], "qwen2_5")
    assert '⟦Let me add.\n<tool_call>\n{"name": "add", "arguments": {"a": 2}}\n</tool_call><|im_end|>⟧' in text
    assert json.dumps(TOOLS[0]) in text
    assert report.warnings == []


def calling(arguments):
    call = {"type": "function", "function": {"name": "add", "arguments": arguments}}
    return chat(ASKED, {"role": "assistant", "content": "", "tool_calls": [call]}, {"role": "tool", "content": "4"}, ANSWER)


@pytest.mark.parametrize("arguments", ["", '{"a": 2', "[2]", [2]])
def test_arguments_that_are_none_are_refused_or_let_pass(prepared, arguments):
    with pytest.raises(DataError, match=r":1: message 2: the arguments of its call of 'add' are"):
        prepared([calling(arguments)], "qwen2_5")
    [text], _ = prepared([calling(arguments)], "qwen2_5", tool_arguments="as_is")
    assert f'"arguments": {json.dumps(arguments)}' in text
    if arguments == "":
        assert '"arguments": {}' in prepared([calling(arguments)], "qwen2_5", tool_arguments="empty")[0][0]
    else:
        with pytest.raises(DataError, match="are no JSON object"):
            prepared([calling(arguments)], "qwen2_5", tool_arguments="empty")


def test_a_call_in_broken_json_is_no_answer(prepared):
    talk = [{"from": "human", "value": "Hello"}, {"from": "function_call", "value": '{"name": "add", "arguments": {'}]
    with pytest.raises(DataError, match="message 2: its call is no JSON object with a name"):
        prepared([{"conversations": talk}], "qwen2_5")


def test_an_answer_that_calls_and_is_not_learnt_may_lose_what_it_says(prepared):
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 2}}}
    talk = [
        ASKED,
        {"role": "assistant", "content": "Let me see.", "tool_calls": [call]},
        {"role": "tool", "content": "4"},
        ANSWER,
    ]
    _, report = prepared([chat(*talk)], "mistral_v3", train_on="last_assistant")
    assert (
        "in 1 row the chat template leaves out part of an answer that calls a tool, and is not learnt (" in report.warnings[0]
    )
    assert "'Let me see.'" in report.warnings[0]
    assert prepared([chat(*talk)], "qwen2_5", train_on="last_assistant")[1].warnings == []


# --- columns --------------------------------------------------------------------------------------------------------------------


def test_columns_that_nobody_reads_are_named(prepared):
    rows = [chat(ASKED, ANSWER, id=7, empty=None), chat(ASKED, ANSWER, source="web", id=8, reasoning="Add two and two.")]
    _, report = prepared(rows)
    assert any("columns that nobody reads: id (7), source ('web'), reasoning" in line for line in summary(report))
    assert [text.partition(": ")[2].partition(";")[0] for text in report.warnings] == [
        "nobody reads the column 'reasoning' ('Add two and two.')"
    ]
    assert prepared(rows, allow_dropped=["reasoning"])[1].warnings == []
    assert prepared(rows, keep=[{"name": "id"}])[1].sources[0].unread.keys() == {"source", "reasoning"}


def test_the_columns_of_every_format_are_read(prepared):
    alpaca = {"instruction": "Add", "input": "two", "output": "four", "system": "Be brief."}
    texts = {"prompt": "Two plus two is", "completion": " four."}
    for row in (
        alpaca,
        texts,
        {"text": "Two."},
        {"segments": [{"text": "Two.", "train": True}]},
        {"input_ids": [3, 4], "labels": [3, 4]},
    ):
        assert prepared([row])[1].sources[0].unread == {}
    pair = {"system": "Be brief.", "instruction": "Add", "input": "two", "chosen": "Four.", "rejected": "Five.", "score": 1}
    assert prepared([pair], kind=PAIR)[1].sources[0].unread == {"score": "1"}


def test_a_system_prompt_that_a_template_ignores_is_refused_unless_it_is_allowed(prepared, jsonl, template_tokenizer):
    tokenizer = template_tokenizer("chatml")
    tokenizer.chat_template = (
        "{% for message in messages if message.role != 'system' %}" + str(tokenizer.chat_template).partition("%}")[2]
    )
    rows = jsonl([chat({"role": "system", "content": "Be kind."}, ASKED, ANSWER)])
    with pytest.raises(DataError, match=r"message 1 \(system\): the chat template leaves it out"):
        prepare(DataSection(train=[rows], cache=False), tokenizer, kind=SAMPLE, seed=0)
    section = DataSection(train=[rows], cache=False, allow_dropped=["system"])
    report = prepare(section, tokenizer, kind=SAMPLE, seed=0).report
    assert report.warnings == []
    assert any("in 1 row the chat template leaves out the system prompt (" in line for line in summary(report))
