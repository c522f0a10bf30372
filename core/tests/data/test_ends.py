"""Which token ends an answer, in tool chats of published templates: literal masks."""

import re
from pathlib import Path

import pytest

from longline.config.sections import DataSection
from longline.data import prepare
from longline.data.kinds.sample import SAMPLE
from longline.data.masks import ChatMasker
from longline.data.summary import summary
from longline.data.values import Conversation
from longline.errors import DataError
from longline.testing import tiny_tokenizer

ASKED = {"role": "user", "content": "Hello there"}
ANSWER = {"role": "assistant", "content": "I am fine."}
RESULT = {"role": "tool", "tool_call_id": "calls0001", "name": "add1", "content": "four"}
FURTHER = {**RESULT, "tool_call_id": "calls0002", "name": "add2", "content": "seven"}
TOOLS = [
    {"type": "function", "function": {"name": "add1", "description": "d", "parameters": {"type": "object", "properties": {}}}}
]


def calling(*numbers, content=""):
    function = [
        {"id": f"calls000{n}", "type": "function", "function": {"name": f"add{n}", "arguments": {"a": n}}} for n in numbers
    ]
    return {"role": "assistant", "content": content, "tool_calls": function}


HERMES = '<tool_call>\n{"name": "add1", "arguments": {"a": 1}}\n</tool_call>'
GLM = "<tool_call>add1\n<arg_key>a</arg_key>\n<arg_value>1</arg_value>\n</tool_call>"
XML = "<tool_call>\n<function=add1>\n<parameter=a>\n1\n</parameter>\n</function>\n</tool_call>"
DEEPSEEK = '<｜tool▁call▁begin｜>function<｜tool▁sep｜>add1\n```json\n{"a": 1}\n```<｜tool▁call▁end｜>'
PUBLISHED = {
    "glm4moe": [f"\n<think></think>\n{GLM}<|observation|>", "\n<think></think>\nI am fine.<|user|>"],
    "gemma4_v5": ["<|tool_call>call:add1{a:1}<tool_call|><|tool_response>", "I am fine.<turn|>"],
    "gemma4": ["<|tool_call>call:add1{a:1}<tool_call|><|tool_response>", "I am fine.<turn|>"],
    "qwen2_5": [f"{HERMES}<|im_end|>", "I am fine.<|im_end|>"],
    "qwen3": [f"{HERMES}<|im_end|>", "<think>\n\n</think>\n\nI am fine.<|im_end|>"],
    "qwen3_5_nothink": [f"{XML}<|im_end|>", "I am fine.<|im_end|>"],
    "gptoss": [
        ' to=functions.add1<|channel|>commentary json<|message|>{"a": 1}<|call|>',
        "<|channel|>final<|message|>I am fine.<|return|>",
    ],
    "deepseekv3": [
        f"<｜tool▁calls▁begin｜>{DEEPSEEK}<｜tool▁calls▁end｜><｜end▁of▁sentence｜>",
        "I am fine.<｜end▁of▁sentence｜>",
    ],
    "lfm2_2_5": ["<|tool_call_start|>[add1(a=1)]<|tool_call_end|><|im_end|>", "I am fine.<|im_end|>"],
    "llama3_1": ['{"name": "add1", "parameters": {"a": 1}}<|eot_id|>', "I am fine.<|eot_id|>"],
}


def published(name):
    """A tokenizer with the template that trl ships under this name."""
    trl = pytest.importorskip("trl.chat_template_utils", reason="trl is not installed")
    path = Path(trl.__file__).parent / "chat_templates" / f"{name}.jinja"
    if not path.is_file():
        pytest.skip(f"this trl has no {name}")
    tokenizer = tiny_tokenizer()
    source = path.read_text(encoding="utf-8")
    tokenizer.bos_token = "<|pad|>"
    marks = set(re.findall(r"<\|?/?[a-zA-Z_]+\|?>|<｜[^｜]+｜>", source)) | {"<｜end▁of▁sentence｜>"}
    tokenizer.add_special_tokens({"additional_special_tokens": sorted(marks)})
    if name == "deepseekv3":
        tokenizer.eos_token = "<｜end▁of▁sentence｜>"
    tokenizer.chat_template = source
    return tokenizer


def learnt(tokenizer, messages, tools=None, **options):
    piece = ChatMasker(tokenizer, **options).piece(Conversation(messages, [None] * len(messages), tools), "assistant")
    assert len(piece.terminators) == sum(message["role"] == "assistant" for message in messages)
    return [piece.text[start:end] for start, end in piece.spans]


@pytest.mark.parametrize("name", PUBLISHED)
def test_tool_chats_of_published_templates(name):
    tokenizer = published(name)
    assert learnt(tokenizer, [ASKED, calling(1), RESULT, ANSWER], TOOLS) == PUBLISHED[name]
    # A row that ends with the call stops in the same way.
    assert learnt(tokenizer, [ASKED, calling(1)], TOOLS)[0].endswith(PUBLISHED[name][0].lstrip())


def test_answers_that_the_next_turn_ends():
    tokenizer = published("glm4moe")
    plain = "\n<think></think>\nI am fine.<|user|>"
    assert learnt(tokenizer, [ASKED, ANSWER]) == [plain]
    assert learnt(tokenizer, [ASKED, ANSWER, ASKED, ANSWER]) == [plain, plain]
    called = learnt(tokenizer, [ASKED, calling(1, 2), RESULT, FURTHER, ANSWER], TOOLS)
    assert called[0].endswith("</tool_call><|observation|>")
    assert "seven" not in "".join(called)


def test_a_named_token_ends_answers():
    tokenizer = published("glm4moe")
    assert learnt(tokenizer, [ASKED, ANSWER], end_of_turn=["<|im_end|>"]) == ["\n<think></think>\nI am fine.<|im_end|>"]


def test_results_of_several_tools_inside_an_answer():
    tokenizer = published("gemma4_v5")
    call = "<|tool_call>call:add1{a:1}<tool_call|><|tool_call>call:add2{a:2}<tool_call|><|tool_response>"
    messages = [ASKED, calling(1, 2), RESULT, FURTHER, ANSWER, ASKED, ANSWER]
    assert learnt(tokenizer, messages, TOOLS) == [call, "I am fine.<turn|>", "I am fine.<turn|>"]
    # The template writes what was said beside a call behind the results.
    with_words = [ASKED, calling(1, content="Let me look."), RESULT, ANSWER]
    found = learnt(tokenizer, with_words, TOOLS)
    assert found == ["<|tool_call>call:add1{a:1}<tool_call|><|tool_response>", "Let me look.", "I am fine.<turn|>"]


def test_a_row_of_a_single_turn_is_prepared(jsonl, chat):
    path = jsonl([chat()])
    prepared = prepare(DataSection(train=[path], cache=False), published("glm4moe"), kind=SAMPLE, seed=0)
    assert prepared.report.sources[0].terminators == 1
    assert "in 1 row '<|user|>' was put behind the last answer" in "\n".join(summary(prepared.report))
    assert not prepared.report.warnings
    named = DataSection(train=[path], cache=False, end_of_turn="<|observation|>")
    ids = prepare(named, published("glm4moe"), kind=SAMPLE, seed=0).train[0]["input_ids"]
    assert ids[-1] == published("glm4moe").convert_tokens_to_ids("<|observation|>")
    wrong = DataSection(train=[path], cache=False, end_of_turn="<|usr|>")
    with pytest.raises(DataError, match="is no token of this tokenizer") as caught:
        prepare(wrong, published("glm4moe"), kind=SAMPLE, seed=0)
    assert "<|user|>" in str(caught.value.hint)


THOUGHT = {**ANSWER, "thinking": "Well."}
STOPS = [
    ("glm4moe", [ASKED, calling(1), RESULT, ANSWER], {"<|observation|>": 1, "<|user|>": 1}),
    ("qwen2_5", [ASKED, calling(1), RESULT, ANSWER], {"<|im_end|>": 2}),
    ("gemma4", [ASKED, calling(1, content="Let me look."), RESULT, ANSWER], {"<|tool_response>": 1, "<turn|>": 2}),
    # Earlier answers end with <|end|>, which also stands behind the thought of the last one.
    ("gptoss", [ASKED, ANSWER, ASKED, THOUGHT], {"<|return|>": 1}),
]


@pytest.mark.parametrize(
    ("name", "messages", "ends", "train_on"), [*((*stop, "assistant") for stop in STOPS), (*STOPS[-1], "all")]
)
def test_the_report_knows_what_ends_answers_and_does_not_stand_inside_of_one(jsonl, name, messages, ends, train_on):
    path = jsonl([{"messages": messages, "tools": TOOLS}])
    section = DataSection(train=[path], cache=False, train_on=train_on)
    assert prepare(section, published(name), kind=SAMPLE, seed=0).report.sources[0].ends == ends


def test_texts_without_turns_end_with_the_special_token_that_is_learnt_last(jsonl):
    tokenizer = published("qwen2_5")
    pieces = [{"text": "Hello?", "train": False}, {"text": "Fine.<|im_end|>", "train": True}]
    section = DataSection(train=[jsonl([{"segments": pieces}, {"segments": pieces * 2}])], cache=False)
    assert prepare(section, tokenizer, kind=SAMPLE, seed=0).report.ends == ["<|im_end|>"]
    inside = [pieces[0], {"text": "A<|im_end|>B<|im_end|>", "train": True}]
    section = DataSection(train=[jsonl([{"segments": pieces}, {"segments": inside}])], cache=False)
    assert prepare(section, tokenizer, kind=SAMPLE, seed=0).report.ends == []
