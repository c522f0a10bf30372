"""Pairs of answers and labelled answers: every shape becomes the tokens and masks that it means, and bad rows say why."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from longline.config.sections import DataSection
from longline.data import prepare
from longline.data.kinds.labelled import LABELLED
from longline.data.kinds.pair import PAIR
from longline.data.kinds.prompt import PROMPT
from longline.data.kinds.sample import SAMPLE
from longline.errors import DataError

LAYOUTS = {
    "padded": {"kind": SAMPLE},
    "rows": {"kind": SAMPLE, "packing": "rows"},
    "flat": {"kind": SAMPLE, "packing": "flat"},
    "pairs": {"kind": PAIR},
    "labelled": {"kind": LABELLED},
    "prompts": {"kind": PROMPT},
}

USER, END, BOT = "<|im_start|>user\n", "<|im_end|>\n", "<|im_start|>assistant\n"
SYSTEM = f"<|im_start|>system\nBe kind.{END}"
ASKED, GOOD, BAD = (
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Fine."},
    {"role": "assistant", "content": "No."},
)
CHOSEN, REJECTED = f"{USER}Hello{END}{BOT}⟦Fine.<|im_end|>⟧\n", f"{USER}Hello{END}{BOT}⟦No.<|im_end|>⟧\n"
SHAREGPT = {
    "ask": {"from": "human", "value": "Hello"},
    "good": {"from": "gpt", "value": "Fine."},
    "bad": {"from": "gpt", "value": "No."},
}


@pytest.fixture
def data_of(jsonl, chatml):
    """Prepare rows (or a path) in a layout."""

    def run(rows, layout="pairs", tokenizer=chatml, **options):
        source = {key: options.pop(key) for key in ("format", "columns", "roles", "limit", "weight") if key in options}
        path = rows if isinstance(rows, str) else jsonl(rows)
        section = DataSection(**{"train": [{"path": path, **source}], "shuffle": False, "cache": False, **options})
        return prepare(section, tokenizer, **LAYOUTS[layout], seed=0)

    return run


@pytest.fixture
def texts_of(data_of, marked, chatml):
    """The marked text of chosen and rejected (or of the labelled answer) of every row, and the source's report."""

    def run(rows, layout="pairs", tokenizer=chatml, **options):
        data = data_of(rows, layout, tokenizer, **options)
        texts = []
        for row in data.train:
            start, parts = 0, []
            for length in row.get("seq_lengths") or [len(row["input_ids"])]:
                end = start + length
                parts.append(marked(tokenizer, row["input_ids"][start:end], row["labels"][start:end]))
                start = end
            texts.append(tuple(parts))
        return texts, data.report.sources[0]

    return run


# --- shapes of pairs ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "options"),
    [
        ({"prompt": [ASKED], "chosen": [GOOD], "rejected": [BAD]}, {}),
        ({"prompt": [ASKED], "chosen": GOOD, "rejected": BAD}, {}),
        ({"prompt": [ASKED], "chosen": "Fine.", "rejected": "No."}, {}),
        ({"prompt": "Hello", "chosen": [GOOD], "rejected": [BAD]}, {}),
        ({"prompt": "Hello", "chosen": [ASKED, GOOD], "rejected": [ASKED, BAD], "messages": [ASKED, GOOD], "score": 1}, {}),
        ({"prompt": [ASKED], "chosen": [ASKED, GOOD], "rejected": [ASKED, BAD]}, {}),
        ({"chosen": [ASKED, GOOD], "rejected": [ASKED, BAD]}, {}),
        ({"chosen": [ASKED, GOOD], "rejected": [ASKED, BAD], "messages": [ASKED, GOOD]}, {}),
        ({"conversations": [SHAREGPT["ask"]], "chosen": SHAREGPT["good"], "rejected": SHAREGPT["bad"]}, {}),
        ({"chosen": [SHAREGPT["ask"], SHAREGPT["good"]], "rejected": [SHAREGPT["ask"], SHAREGPT["bad"]]}, {}),
        ({"question": "Hello", "chosen": "Fine.", "rejected": "No."}, {}),
        ({"system": "", "question": "Hello", "chosen": "Fine.", "rejected": "No."}, {}),
        ({"system": None, "prompt": "Hello", "chosen": "Fine.", "rejected": "No."}, {}),
        ({"instruction": "Hello", "input": "", "chosen": "Fine.", "rejected": "No."}, {}),
        ({"input": "Hello", "chosen": "Fine.", "rejected": "No.", "generations": ["a"]}, {}),
        ({"query": "Hello", "chosen_response": "Fine.", "rejected_response": "No."}, {}),
        ({"prompt": "Hello", "chosen": "Fine.", "rejected": "No."}, {"columns": {"question": "prompt"}}),
        ({"prompt": "Hello", "chosen": "Fine.", "rejected": "No."}, {"columns": {"instruction": "prompt"}}),
        ({"q": "Hello", "a": "Fine.", "b": "No.", "s": ""},
         {"columns": {"prompt": "q", "chosen": "a", "rejected": "b", "system": "s"}}),
        ({"question": "x", "prompt": "Hello", "a": GOOD, "b": BAD},
         {"columns": {"prompt": "prompt", "chosen": "a", "rejected": "b"}}),
        ({"talk": [{"who": "me", "says": "Hello"}], "chosen": {"who": "you", "says": "Fine."},
          "rejected": {"who": "you", "says": "No."}},
         {"columns": {"prompt": "talk", "role": "who", "content": "says"}, "roles": {"me": "user", "you": "assistant"}}),
    ],
)  # fmt: skip
def test_forms_of_one_preference(texts_of, row, options):
    texts, report = texts_of([row], **options)
    assert texts == [(CHOSEN, REJECTED)]
    assert (report.format, report.guessed, report.note) == ("preference", True, "through the chat template")


def test_system_question_and_input(texts_of):
    row = {"system": "Be kind.", "question": "Hello", "chosen": "Fine.", "rejected": "No."}
    assert texts_of([row])[0] == [(SYSTEM + CHOSEN, SYSTEM + REJECTED)]
    renamed = {"about": row["system"], "asked": row["question"], "yes": row["chosen"], "no": row["rejected"]}
    columns = {"system": "about", "prompt": "asked", "chosen": "yes", "rejected": "no"}
    assert texts_of([renamed], columns=columns)[0] == [(SYSTEM + CHOSEN, SYSTEM + REJECTED)]
    openorca = {"system_prompt": "Be kind.", "question": "Hello", "chosen": "Fine.", "rejected": "No."}
    assert texts_of([openorca])[0] == [(SYSTEM + CHOSEN, SYSTEM + REJECTED)]
    alpaca = {"instruction": "Hello", "input": "all", "chosen": "Fine.", "rejected": "No."}
    assert texts_of([alpaca])[0][0][0] == f"{USER}Hello\n\nall{END}{BOT}⟦Fine.<|im_end|>⟧\n"
    whole = {"system": "Be kind.", "chosen": [ASKED, GOOD], "rejected": [ASKED, BAD]}
    assert texts_of([whole])[0] == [(SYSTEM + CHOSEN, SYSTEM + REJECTED)]


def test_a_plain_prompt_stays_plain_and_the_report_says_so(texts_of, template_tokenizer):
    row = {"prompt": "Two plus two is", "chosen": " four.", "rejected": " six."}
    texts, report = texts_of([row])
    assert texts == [("Two plus two is⟦ four.<|im_end|>⟧", "Two plus two is⟦ six.<|im_end|>⟧")]
    assert report.note == "as plain text, without the chat template: `columns: {question: prompt}` would use it"
    bare = template_tokenizer(None)
    texts, report = texts_of([row], tokenizer=bare)
    assert texts == [("Two plus two is⟦ four.</s>⟧", "Two plus two is⟦ six.</s>⟧")]
    assert report.note == "as plain text"
    assert texts_of([row], tokenizer=bare, add_eos=False)[0][0][0] == "Two plus two is⟦ four.⟧"


@pytest.mark.parametrize(
    ("chosen", "rejected", "prompt"),
    [
        ("Two plus two is four.", "Two plus two is five.", "Two plus two is"),
        ("I do like it", "I don't like it", "I"),
        ("Is it? Yes", "Is it? No", "Is it?"),
        ("Question:\nfour", "Question:\nsix", "Question:\n"),
        ("\n\nHuman: Hi\n\nAssistant: I am", "\n\nHuman: Hi\n\nAssistant: I can", "\n\nHuman: Hi\n\nAssistant:"),
        ("\n\nHuman: a\n\nAssistant: b\n\nHuman: c d", "\n\nHuman: a\n\nAssistant: b\n\nHuman: c e",
         "\n\nHuman: a\n\nAssistant: b\n\nHuman: c"),
        ("中国的首都是北京", "中国的首都是上海", "中国的首都是"),
        ("a   b", "a   c", "a"),
    ],
)  # fmt: skip
def test_texts_are_cut_where_an_answer_may_begin(texts_of, chosen, rejected, prompt):
    texts, report = texts_of([{"chosen": chosen, "rejected": rejected}])
    assert [tuple(text.partition("⟦")[0] for text in pair) for pair in texts] == [(prompt, prompt)]
    assert [text.replace("⟦", "").replace("⟧", "") for text in texts[0]] == [f"{chosen}<|im_end|>", f"{rejected}<|im_end|>"]
    assert report.note == "as plain text, without the chat template"


def test_several_turns_and_tools_in_the_answers(texts_of, template_tokenizer):
    call = {"role": "assistant", "tool_calls": [{"type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}]}
    result = {"role": "tool", "content": "3"}
    row = {"prompt": [ASKED, GOOD, ASKED], "chosen": [call, result, GOOD], "rejected": [BAD],
           "tools": '[{"type": "function", "function": {"name": "add"}}]'}  # fmt: skip
    tokenizer = template_tokenizer("qwen2_5")
    texts, _ = texts_of([row], tokenizer=tokenizer)
    chosen, rejected = texts[0]
    assert chosen.startswith("<|im_start|>system\n")
    assert '{"type": "function", "function": {"name": "add"}}' in chosen.partition("⟦")[0]
    assert chosen.partition("⟦")[0] == rejected.partition("⟦")[0]
    assert '⟦<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call><|im_end|>⟧' in chosen
    assert chosen.count("⟦") == 2
    assert chosen.endswith("<tool_response>\n3\n</tool_response><|im_end|>\n<|im_start|>assistant\n⟦Fine.<|im_end|>⟧\n")
    assert rejected.count("⟦") == 1
    calling = {"chosen": [ASKED, call, result, GOOD], "rejected": [ASKED, call, result, BAD]}
    implicit = texts_of([calling], tokenizer=tokenizer)[0][0]
    assert [text.count("⟦") for text in implicit] == [1, 1]
    assert implicit[0].endswith("⟦Fine.<|im_end|>⟧\n")


def test_parquet_pads_with_nulls(texts_of, tmp_path):
    """Arrow gives every message every key: what is null in it is not there."""
    rows = [
        {"prompt": [{**ASKED, "name": "Ann"}], "chosen": [GOOD], "rejected": [{**BAD, "train": None}], "system": None},
        {"prompt": [ASKED], "chosen": [GOOD], "rejected": [BAD], "system": "Be kind."},
    ]
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    assert pq.read_table(path).to_pylist()[1]["prompt"][0] == {**ASKED, "name": None}
    assert texts_of(str(path))[0] == [(CHOSEN, REJECTED), (SYSTEM + CHOSEN, SYSTEM + REJECTED)]


# --- tokens ---------------------------------------------------------------------------------------


def test_a_pair_is_one_row(data_of, chatml):
    data = data_of([{"prompt": "Two plus two is", "chosen": " four.", "rejected": " six and six."}])
    [row] = data.train
    prompt = chatml("Two plus two is")["input_ids"]
    chosen, rejected = chatml(" four.<|im_end|>")["input_ids"], chatml(" six and six.<|im_end|>")["input_ids"]
    assert row["input_ids"] == [*prompt, *chosen, *prompt, *rejected]
    assert row["labels"] == [-100] * len(prompt) + chosen + [-100] * len(prompt) + rejected
    assert row["seq_lengths"] == [len(prompt + chosen), len(prompt + rejected)]
    assert row["length"] == len(prompt + rejected) > len(prompt + chosen)
    assert row["row_ids"] == [0]
    assert [(name, str(data.train.data.schema.field(name).type)) for name in data.train.column_names] == [
        ("input_ids", "list<item: int32>"), ("labels", "list<item: int32>"), ("length", "int32"),
        ("row_ids", "list<item: int32>"), ("seq_lengths", "list<item: int32>"),
    ]  # fmt: skip
    split = data.report.train
    assert (split.samples, split.rows, split.tokens, split.longest) == (1, 1, len(row["input_ids"]), row["length"])
    assert split.trained_tokens == len(chosen + rejected)


def test_a_token_across_the_border_is_learnt_in_both(texts_of, data_of):
    """Were it masked, the answers would differ in their prompts."""
    row = {"prompt": "Two plus two is ", "chosen": "four.", "rejected": "six."}
    assert texts_of([row])[0] == [("Two plus two is⟦ four.<|im_end|>⟧", "Two plus two is⟦ six.<|im_end|>⟧")]
    report = data_of([row]).report
    assert report.sources[0].straddling == 1
    assert "in 1 rows a token joins the end of what is masked" in report.warnings[0]
    assert "and is learnt in both" in report.warnings[0]
    one_side = {"prompt": "Two plus two is ", "chosen": "four.", "rejected": "?"}
    chosen, rejected = texts_of([one_side])[0][0]
    assert chosen.partition("⟦")[0] == rejected.partition("⟦")[0] == "Two plus two is"
    assert rejected.partition("⟦")[2] == " ?<|im_end|>⟧"


def test_answers_behind_the_same_prompt_tokens(data_of, smollm2, template_tokenizer):
    rows = [
        {"question": "What is two plus two?", "chosen": "four", "rejected": "\n five"},
        {"question": "Say\n", "chosen": "\nx", "rejected": "  y"},
    ]
    for tokenizer in (smollm2, template_tokenizer("llama3"), template_tokenizer("deepseek_r1")):
        for row in data_of(rows, tokenizer=tokenizer).train:
            first, second = row["seq_lengths"]
            ids, labels = row["input_ids"], row["labels"]
            starts = [next(at for at, label in enumerate(part) if label != -100) for part in (labels[:first], labels[first:])]
            assert starts[0] == starts[1]
            assert ids[: starts[0]] == ids[first : first + starts[1]]
            assert len(ids) == first + second


def test_long_pairs(data_of, jsonl):
    short = {"prompt": "Two", "chosen": " four.", "rejected": " six."}
    long = {"prompt": "Two", "chosen": " four" * 30, "rejected": " six."}
    path = jsonl([short, long])
    cut = data_of(path, max_length=10)
    assert [row["seq_lengths"] for row in cut.train][1][0] == 10
    assert (cut.report.sources[0].truncated, cut.report.sources[0].kept) == (1, 2)
    dropped = data_of(path, max_length=10, too_long="drop")
    assert (len(dropped.train), dropped.report.sources[0].dropped) == (1, 1)
    with pytest.raises(DataError, match=r"rows.jsonl:2: \d+ tokens, the limit is 10"):
        data_of(path, max_length=10, too_long="error")


def test_pairs_that_truncation_spoils(data_of, jsonl):
    words = " four" * 30
    rows = [
        {"prompt": "Two", "chosen": " four.", "rejected": " six."},
        {"prompt": "Two" + words, "chosen": " six.", "rejected": " four."},
        {"prompt": "Two", "chosen": words + " six.", "rejected": words + " four and three."},
    ]
    data = data_of(jsonl(rows), max_length=10)
    report = data.report.sources[0]
    assert (report.kept, report.untrained, report.identical, report.truncated) == (1, 1, 1, 2)
    assert any("1 rows have nothing to learn" in text and "rows.jsonl:2" in text for text in data.report.warnings)
    assert any("chosen and rejected are the same within max_length" in text and "rows.jsonl:3" in text
               for text in data.report.warnings)  # fmt: skip
    assert not any("every answer is cut" in text for text in data.report.warnings), "the one that is kept is whole"
    all_cut = data_of(jsonl([{"prompt": "Two", "chosen": words, "rejected": words[1:]}]), max_length=10)
    assert any("every answer is cut at max_length" in text for text in all_cut.report.warnings)
    with pytest.raises(
        DataError, match=r"nothing of the train data is learnt \(2 rows, 1 untrained, 1 identical, 2 truncated\)"
    ):
        data_of(jsonl(rows[1:]), max_length=10)


# --- what is refused ------------------------------------------------------------------------------

PREFERENCE = {"prompt": [ASKED], "chosen": [GOOD], "rejected": [BAD]}
SURROGATE = '{"prompt": "Two \\ud83d", "chosen": "a", "rejected": "b"}'


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": [ASKED], "chosen": [GOOD]}, "the field 'rejected' is missing (found: prompt, chosen)"),
        ({**PREFERENCE, "rejected": None}, "the field 'rejected' is null"),
        ({**PREFERENCE, "prompt": None}, "the field 'prompt' is null"),
        ({"chosen": [GOOD], "rejected": [BAD]}, "the field 'prompt' is missing"),
        ({**PREFERENCE, "prompt": " "}, "the field 'prompt' is empty"),
        ({**PREFERENCE, "chosen": 3, "rejected": "a"}, "the field 'chosen' is a int, not text"),
        ({**PREFERENCE, "chosen": "", "rejected": "a"}, "the field 'chosen' is empty"),
        ({**PREFERENCE, "chosen": []}, "'chosen': there are no messages"),
        ({**PREFERENCE, "chosen": ["Fine.", 3]}, "'chosen': message 1 is a str, not a mapping"),
        ({**PREFERENCE, "chosen": [{"role": "assistant", "content": ""}]}, "'chosen': message 1 (assistant): 'content' is empty"),
        ({**PREFERENCE, "chosen": [{"role": "robot", "content": "a"}]}, "'chosen': message 1: the role 'robot' is not known"),
        ({**PREFERENCE, "chosen": [{"content": "a"}]}, "'chosen': message 1 has no 'role' (found: content)"),
        ({**PREFERENCE, "chosen": [{**GOOD, "train": False}]}, "'chosen': a message says itself whether it is learnt"),
        ({**PREFERENCE, "chosen": "Fine."}, "'chosen' and 'rejected' must both be text or both be messages"),
        ({**PREFERENCE, "rejected": [GOOD]}, "'chosen' and 'rejected' are the same"),
        ({"prompt": "a", "chosen": "b", "rejected": "b"}, "'chosen' and 'rejected' are the same"),
        ({**PREFERENCE, "rejected": [{"role": "tool", "content": "a"}]},
         "'rejected' has a message of the tool where the assistant's answer should begin"),
        ({**PREFERENCE, "chosen": [ASKED], "rejected": [ASKED, BAD]}, "'chosen' has no answer behind the messages that both"),
        ({"prompt": "Bye", "chosen": [ASKED, GOOD], "rejected": [ASKED, BAD]},
         "'chosen' and 'rejected' are whole conversations, and 'prompt' is not what they begin with"),
        ({"prompt": [GOOD, ASKED], "chosen": [ASKED, GOOD], "rejected": [ASKED, BAD]},
         "'chosen' and 'rejected' are whole conversations, and 'prompt' is not what they begin with"),
        ({**PREFERENCE, "chosen": [ASKED, GOOD], "rejected": [{"role": "user", "content": "Bye"}, BAD]},
         "'chosen' and 'rejected' begin with different messages, so they share no prompt"),
        ({"prompt": {"a": None}, "chosen": GOOD, "rejected": BAD}, "'prompt': message 1 has no 'role' (found: a)"),
        ({"prompt": "a", "chosen": "b", "rejected": "c", "system": "Be kind."}, "a system prompt needs the chat template"),
        ("{", "invalid JSON"),
        (SURROGATE, "the text holds half of a surrogate pair"),
    ],
)  # fmt: skip
def test_bad_pairs_are_named_with_their_line(texts_of, row, message):
    rows = [PREFERENCE] * 100 + [row, PREFERENCE]
    with pytest.raises(DataError) as caught:
        texts_of(rows)
    assert f"rows.jsonl:101: {message}" in str(caught.value)
    texts, report = texts_of(rows, on_bad_row="skip")
    assert texts == [(CHOSEN, REJECTED)] * 101
    assert (report.rows, report.bad, report.kept) == (102, 1, 101)
    assert f"rows.jsonl:101: {message}" in str(report.bad_rows[0])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"chosen": "Yes", "rejected": "No"}, "'chosen' and 'rejected' have no beginning in common that could be the prompt"),
        ({"chosen": "Two plus", "rejected": "Two plus two"}, "'chosen' has no answer behind what both begin with"),
        ({"chosen": [GOOD], "rejected": [BAD]}, "'chosen' and 'rejected' begin with different messages, so they share no prompt"),
        ({"chosen": [ASKED], "rejected": [ASKED, BAD]}, "'chosen' has no answer behind the messages that both begin with"),
        ({"chosen": [{"role": "system", "content": "Be"}, ASKED, GOOD],
          "rejected": [{"role": "system", "content": "Be"}, {"role": "user", "content": "Bye"}, BAD]},
         "'chosen' has a message of the user where the assistant's answer should begin"),
        ({"chosen": "a b", "rejected": "a c", "system": "Be kind."}, "a system prompt needs the chat template"),
    ],
)  # fmt: skip
def test_bad_pairs_without_a_prompt(texts_of, row, message):
    with pytest.raises(DataError) as caught:
        texts_of([{"chosen": "One two", "rejected": "One three"}, row])
    assert f"rows.jsonl:2: {message}" in str(caught.value)


def test_a_template_that_writes_the_prompt_by_the_answer_is_refused(texts_of, template_tokenizer):
    tokenizer = template_tokenizer("chatml")
    tokenizer.chat_template = "{{ messages | length }}" + tokenizer.chat_template
    texts_of([PREFERENCE], tokenizer=tokenizer)
    with pytest.raises(DataError, match=r"rows.jsonl:1: the chat template writes the prompt in front of one answer otherwise"):
        texts_of([{**PREFERENCE, "chosen": [GOOD, ASKED, GOOD]}], tokenizer=tokenizer)


@pytest.mark.parametrize(
    ("row", "options", "message"),
    [
        ({"instruction": "a", "output": "b"}, {},
         "rows.jsonl: the columns instruction, output can't be used by cpo, dpo, orpo, reward and simpo: preference needs chosen"),
        ({"messages": [ASKED, GOOD]}, {"format": "chat"},
         "cpo, dpo, orpo, reward and simpo can use preference only"),
        ({"prompt": "a", "completion": "b", "label": True}, {"format": "unpaired"}, "the format 'unpaired' is for kto, and cpo"),
        ({"prompt": "a", "question": "a", "chosen": "b", "rejected": "c"}, {}, "the prompt may be in prompt or question"),
        ({"query": "a", "question": "a", "chosen": "b", "rejected": "c"}, {}, "the prompt may be in question or query"),
        ({"prompt": "a", "chosen": "b", "chosen_response": "b", "rejected": "c"}, {}, "chosen may be in chosen or chosen_response"),
        ({"p": "a", "q": "a", "chosen": "b", "rejected": "c"}, {"columns": {"prompt": "p", "question": "q"}},
         "columns: p and q are both named as what is asked"),
        (PREFERENCE, {"train_on": "assistant"}, "train_on 'assistant' means nothing for the format 'preference'"),
    ],
)  # fmt: skip
def test_sources_that_are_no_pairs(data_of, row, options, message):
    with pytest.raises(DataError) as caught:
        data_of([row], **options)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("row", "options", "message"),
    [
        (PREFERENCE, {},
         "the columns chosen, prompt, rejected are those of 'preference', which is for cpo, dpo, orpo, reward and simpo, not for"),
        (PREFERENCE, {"format": "preference"},
         "the format 'preference' is for cpo, dpo, orpo, reward and simpo, and sft"),
        ({"question": "a"}, {"format": "prompts"}, "the format 'prompts' is for grpo and rloo, and sft"),
        ({"question": "a", "response": "b", "label": 1}, {}, "are those of 'unpaired', which is for kto, not for sft"),
    ],
)  # fmt: skip
def test_sft_refuses_preferences(data_of, row, options, message):
    for layout in ("padded", "rows", "flat"):
        with pytest.raises(DataError) as caught:
            data_of([row], layout, **options)
        assert message in str(caught.value)


def test_a_question_needs_a_template(data_of, template_tokenizer):
    row = {"question": "Hello", "chosen": " Fine.", "rejected": " No."}
    with pytest.raises(DataError, match="a question or a system prompt needs a chat template, and the tokenizer has none"):
        data_of([row], tokenizer=template_tokenizer(None))
    assert len(data_of([row], tokenizer=template_tokenizer(None), columns={"prompt": "question"}).train) == 1
    with pytest.raises(DataError, match=r"rows.jsonl:1: messages need a chat template"):
        data_of([PREFERENCE], tokenizer=template_tokenizer(None))


# --- labelled answers -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": [ASKED], "completion": [GOOD]},
        {"prompt": [ASKED], "completion": GOOD},
        {"prompt": [ASKED], "completion": "Fine."},
        {"prompt": "Hello", "completion": [GOOD]},
        {"prompt": "Hello", "completion": [ASKED, GOOD]},
        {"completion": [ASKED, GOOD]},
        {"messages": [ASKED, GOOD]},
        {"conversations": [SHAREGPT["ask"], SHAREGPT["good"]]},
        {"question": "Hello", "response": "Fine."},
        {"system": "", "prompt": "Hello", "completion": "Fine."},
    ],
)
def test_forms_of_one_labelled_answer(texts_of, data_of, row):
    rows = [{**row, "label": True}, {**row, "label": False}]
    texts, report = texts_of(rows, "labelled")
    assert texts == [(CHOSEN,)] * 2
    assert (report.format, report.note, report.good) == ("unpaired", "through the chat template", 1)
    assert data_of(rows, "labelled").train["label"][:] == [True, False]


def test_a_labelled_conversation_learns_its_last_answers_only(texts_of):
    [(text,)], _ = texts_of([{"messages": [ASKED, BAD, ASKED, GOOD], "label": 1}], "labelled")
    assert text == f"{USER}Hello{END}{BOT}No.{END}{CHOSEN}"
    [(text,)], _ = texts_of([{"prompt": "Two is", "completion": " four.", "label": 1}], "labelled")
    assert text == "Two is⟦ four.<|im_end|>⟧"
    mapped = {"q": "Hello", "a": "Fine.", "ok": 0}
    columns = {"question": "q", "completion": "a", "label": "ok"}
    assert texts_of([mapped], "labelled", columns=columns)[0] == [(CHOSEN,)]


@pytest.mark.parametrize(
    ("label", "read"),
    [
        (True, True),
        (False, False),
        (1, True),
        (0, False),
        (1.0, True),
        ("true", True),
        ("False", False),
        ("1", True),
        ("0", False),
    ],
)
def test_labels(data_of, label, read):
    data = data_of([{"prompt": "a", "completion": "b", "label": label}], "labelled")
    assert data.train["label"][:] == [read]
    assert str(data.train.data.schema.field("label").type) == "bool"
    assert f"every label of the train data is {str(read).lower()}: kto wants both" in data.report.warnings[-1]


def test_both_labels_need_no_warning(data_of):
    rows = [{"prompt": "Two", "completion": " four", "label": number % 2} for number in range(4)]
    assert data_of(rows, "labelled").report.warnings == []


def test_labels_from_csv(data_of, tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("prompt,completion,label\nTwo, four,True\nTwo, six,false\n", encoding="utf-8")
    assert data_of(str(path), "labelled").train["label"][:] == [True, False]


ANSWERED = {"prompt": [ASKED], "completion": [GOOD], "label": True}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({**ANSWERED, "label": "good"}, "the field 'label' must be true or false, 1 or 0, and is 'good'"),
        ({**ANSWERED, "label": 2}, "the field 'label' must be true or false, 1 or 0, and is '2'"),
        ({**ANSWERED, "label": None}, "the field 'label' is null"),
        ({**ANSWERED, "label": [True]}, "the field 'label' must be true or false"),
        ({"prompt": [ASKED], "completion": [GOOD]}, "the field 'label' is missing (found: prompt, completion)"),
        ({**ANSWERED, "completion": []}, "'completion': there are no messages"),
        ({**ANSWERED, "completion": " "}, "the field 'completion' is empty"),
        ({**ANSWERED, "completion": [ASKED]}, "'completion': no message is by the assistant behind the last one of the user"),
        ({**ANSWERED, "prompt": None}, "the field 'prompt' is null"),
    ],
)
def test_bad_labelled_rows(texts_of, row, message):
    rows = [ANSWERED, row, ANSWERED]
    with pytest.raises(DataError) as caught:
        texts_of(rows, "labelled")
    assert f"rows.jsonl:2: {message}" in str(caught.value)
    assert texts_of(rows, "labelled", on_bad_row="skip")[0] == [(CHOSEN,)] * 2


def test_sources_that_are_not_labelled(data_of):
    for row in ({"prompt": "a", "completion": "b"}, {"prompt": "a", "chosen": "b", "rejected": "c"}):
        with pytest.raises(DataError, match="can't be used by kto: unpaired needs prompt or question, completion and label"):
            data_of([row], "labelled")
    with pytest.raises(DataError, match=r"rows.jsonl:1: there is no prompt, and 'completion' is text"):
        data_of([{"completion": "a", "label": 1}], "labelled")
    with pytest.raises(DataError, match=r"rows.jsonl:1: 'messages': no message is by the user"):
        data_of([{"messages": [GOOD], "label": 1}], "labelled")


# --- what the rest of the pipeline makes of pairs -------------------------------------------------


@pytest.fixture
def numbered(jsonl):
    """A file of different pairs; every other one as messages."""

    def write(count, name="rows.jsonl", messages=False):
        rows = []
        for number in range(count):
            asked, good, bad = f"{name} Say {number}", f" It is {number}.", f" It is {number} and six."
            if messages:
                begin = {"role": "user", "content": asked}
                sides = ([begin, {"role": "assistant", "content": text}] for text in (good, bad))
                rows.append(dict(zip(("chosen", "rejected"), sides, strict=True)))
            else:
                rows.append({"prompt": asked, "chosen": good, "rejected": bad})
        return jsonl(rows, name)

    return write


def test_mixing_weights_and_origins(chatml, numbered):
    first, second = numbered(10, "first.jsonl"), numbered(6, "second.jsonl", messages=True)
    section = DataSection(train=[{"path": first, "weight": 2}, {"path": second, "limit": 4}], cache=False)
    data = prepare(section, chatml, kind=PAIR, seed=3)
    ids = [row["row_ids"][0] for row in data.train]
    assert sorted(ids) == sorted([*range(10), *range(10), *range(10, 14)])
    assert ids != sorted(ids)
    for row in data.train:
        [number] = row["row_ids"]
        head = row["seq_lengths"][0]
        halves = chatml.decode(row["input_ids"][:head]), chatml.decode(row["input_ids"][head:])
        name, line = data.origin("train", number).rsplit("/", 1)[1].split(":")
        said = f"It is {int(line) - 1}"
        assert all(name in half for half in halves)
        assert f"{said}." in halves[0]
        assert f"{said} and six." in halves[1]
        assert halves[0].startswith("<|im_start|>") == (name == "second.jsonl")
    assert [source.note for source in data.report.sources][1] == "through the chat template"


def test_a_pair_is_never_split(chatml, numbered):
    section = DataSection(train=numbered(20), eval_fraction=0.25, cache=False)
    data = prepare(section, chatml, kind=PAIR, seed=1)
    assert (len(data.train), len(data.eval)) == (15, 5)
    places = [
        {data.origin(split, row["row_ids"][0]) for row in dataset}
        for split, dataset in (("train", data.train), ("eval", data.eval))
    ]
    assert (len(places[0]), len(places[1]), places[0] & places[1]) == (15, 5, set())
    assert all(len(row["seq_lengths"]) == 2 for row in data.eval)


@pytest.mark.parametrize("layout", ["pairs", "labelled", "prompts"])
def test_the_cache_gives_the_same_back(chatml, jsonl, layout):
    rows = {
        "pairs": [{"prompt": "Two", "chosen": f" {number}", "rejected": " six"} for number in range(10)],
        "labelled": [{"prompt": "Two", "completion": f" {number}", "label": number % 2} for number in range(10)],
        "prompts": [{"prompt": f"Two {number}", "answer": {"of": [number, None]}} for number in range(10)],
    }[layout]
    section = DataSection(train=jsonl(rows), eval_fraction=0.3)
    first, second = (prepare(section, chatml, **LAYOUTS[layout], seed=0) for _ in range(2))
    assert (first.report.cache_hit, second.report.cache_hit) == (False, True)
    fresh = prepare(section.model_copy(update={"cache": False}), chatml, **LAYOUTS[layout], seed=0)
    assert first.train[:] == second.train[:] == fresh.train[:]
    assert first.eval[:] == second.eval[:] == fresh.eval[:]
    assert second.report.sources == first.report.sources
    assert [second.origin("eval", number) for number in range(3)] == [fresh.origin("eval", number) for number in range(3)]


def test_another_layout_is_another_entry(chatml, jsonl):
    section = DataSection(train=jsonl([{"prompt": "Two", "completion": " four", "label": 1}]))
    assert not prepare(section, chatml, kind=SAMPLE, seed=0).report.cache_hit
    assert not prepare(section, chatml, kind=LABELLED, seed=0).report.cache_hit
    assert prepare(section, chatml, kind=LABELLED, seed=0).report.cache_hit


def test_a_huge_row_and_many_chunks(data_of, chatml):
    rows = [{"prompt": f"Say {number}", "chosen": " four" * (number % 7 + 1), "rejected": " six"} for number in range(2300)]
    rows[5] = {"prompt": "Say", "chosen": " four" * 300_000, "rejected": " six"}
    data = data_of(rows, max_length=32)
    assert [row["row_ids"] for row in data.train] == [[number] for number in range(2300)]
    assert data.train[5]["seq_lengths"][0] == 32
    for number in (4, 999, 1000, 2299):
        row = data.train[number]
        head = row["seq_lengths"][0]
        assert chatml.decode(row["input_ids"][:head]) == f"Say {number}" + " four" * (number % 7 + 1) + "<|im_end|>"
        assert chatml.decode(row["input_ids"][head:]) == f"Say {number} six<|im_end|>"


def test_the_first_of_several_answers_is_taken_and_counted_once(texts_of):
    """Also where rows are read twice, to learn the type of a column."""
    row = {"question": "Hello", "chosen": ["Fine.", "Well."], "rejected": ["No."], "id": 3}
    texts, report = texts_of([row] * 3, keep=["id"])
    assert texts == [(CHOSEN, REJECTED)] * 3
    [(text, notice)] = report.notices.items()
    assert (text, notice.rows, notice.example) == ("the first of several answers is taken", 3, "'Well.'")
    [labelled], _ = texts_of([{"question": "Hello", "completion": ["Fine.", "Well."], "label": True}], "labelled")
    assert labelled == (CHOSEN,)
