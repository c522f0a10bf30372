"""Prompts for methods that generate: what the model is asked, what reward functions get, and what is refused."""

import datetime as dt
import decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from longline.config.sections import DataSection
from longline.data import prepare
from longline.data.collate import Collator
from longline.data.kinds.prompt import PROMPT
from longline.errors import DataError

USER, END, BOT = "<|im_start|>user\n", "<|im_end|>\n", "<|im_start|>assistant\n"
ASKED, ANSWER = {"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Fine."}


@pytest.fixture
def data_of(jsonl, chatml):
    """Prepare rows (or paths) as prompts."""

    def run(*files, tokenizer=chatml, **options):
        source = {key: options.pop(key) for key in ("format", "columns", "roles") if key in options}
        paths = [
            rows if isinstance(rows, str) else jsonl(rows, f"rows{number or ''}.jsonl") for number, rows in enumerate(files)
        ]
        section = DataSection(
            **{"train": [{"path": path, **source} for path in paths], "shuffle": False, "cache": False, **options}
        )
        return prepare(section, tokenizer, kind=PROMPT, seed=0)

    return run


@pytest.mark.parametrize(
    ("row", "options"),
    [
        ({"prompt": [ASKED]}, {}),
        ({"prompt": ASKED}, {}),
        ({"prompt": [{"from": "human", "value": "Hello"}]}, {}),
        ({"messages": [ASKED]}, {}),
        ({"question": "Hello"}, {}),
        ({"question": [ASKED]}, {}),
        ({"instruction": "Hello", "input": ""}, {}),
        ({"system": "", "prompt": "Hello"}, {}),
        ({"prompt": "Hello"}, {"columns": {"question": "prompt"}}),
        ({"q": "Hello"}, {"columns": {"question": "q"}}),
    ],
)
def test_forms_of_one_prompt(data_of, chatml, row, options):
    data = data_of([row], **options)
    [made] = data.train
    assert chatml.decode(made["input_ids"]) == f"{USER}Hello{END}{BOT}"
    expected = chatml.apply_chat_template([ASKED], add_generation_prompt=True, return_dict=False)
    assert made["input_ids"] == expected
    assert made["length"] == len(expected)
    kept = {name: value for name, value in row.items() if name != "prompt"}
    assert Collator(0, PROMPT)([made]) == [{"prompt": [ASKED], **kept, "row_ids": 0}]
    assert data.train.column_names == ["input_ids", "length", "row_ids", "row"]
    assert (data.report.sources[0].format, data.report.sources[0].note) == ("prompts", "through the chat template")


def test_system_and_tokens_of_the_generation_prompt(data_of, smollm2):
    row = {"system": "Be kind.", "question": "Hello", "input": "more"}
    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello\n\nmore"}]
    with pytest.raises(DataError, match="the prompt may be in question or input"):
        data_of([row], tokenizer=smollm2)
    data = data_of([row], tokenizer=smollm2, columns={"question": "question", "input": "input"})
    expected = smollm2.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert data.train[0]["input_ids"] == expected
    assert Collator(0, PROMPT)(list(data.train)) == [{"prompt": messages, **row, "row_ids": 0}]


def test_plain_text_has_the_first_tokens_of_the_tokenizer(data_of, template_tokenizer):
    from tokenizers.processors import TemplateProcessing

    tokenizer = template_tokenizer(None)
    bos = tokenizer.convert_tokens_to_ids("<s>")
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", bos)]
    )
    data = data_of([{"prompt": "Two plus two is"}], tokenizer=tokenizer)
    assert data.train[0]["input_ids"] == tokenizer("Two plus two is")["input_ids"]
    assert data.train[0]["input_ids"][0] == bos
    assert Collator(0, PROMPT)(list(data.train)) == [{"prompt": "Two plus two is", "row_ids": 0}]


def test_extra_columns_stay_as_they_were(data_of):
    rows = [
        {
            "prompt": "Zähle",
            "answer": 4,
            "metadata": {"deep": [1, {"a": None, "ü": 1.5}], "none": None},
            "ok": True,
            "text": "√",
        },
        {"prompt": "Say", "answer": None, "only": "here", "question": "kept"},
    ]
    data = data_of(rows)
    columns = {"answer", "metadata", "ok", "text", "only", "question"}
    batch = Collator(0, PROMPT)(list(data.train))
    assert batch == [
        {**dict.fromkeys(columns), **rows[0], "row_ids": 0},
        {**dict.fromkeys(columns), **rows[1], "row_ids": 1},
    ]
    assert [type(batch[0][name]) for name in ("answer", "ok")] == [int, bool]


def test_sources_of_different_columns_make_whole_batches(data_of):
    """A reward function gets one list for each column, so every row has all of them; the evaluation split too."""
    data = data_of([{"question": "Hello", "answer": "a"}] * 6, [{"prompt": [ASKED], "level": 3}] * 6, eval_fraction=0.5)
    assert (len(data.train), len(data.eval)) == (6, 6)
    for dataset in (data.train, data.eval):
        for row in Collator(0, PROMPT)(list(dataset)):
            assert set(row) == {"prompt", "question", "answer", "level", "row_ids"}
            assert (row["answer"], row["level"]) in [("a", None), (None, 3)]


def test_parquet_values(data_of, tmp_path):
    rows = [{"question": "Hello", "on": dt.date(2024, 2, 3), "price": decimal.Decimal("1.50"), "meta": {"a": 1}}]
    rows.append({"question": "Bye", "on": None, "price": None, "meta": {"b": "x"}})
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    batch = Collator(0, PROMPT)(list(data_of(str(tmp_path / "rows.parquet")).train))
    assert [(row["on"], row["price"], row["meta"]) for row in batch] == [
        ("2024-02-03", "1.50", {"a": 1, "b": None}),
        (None, None, {"a": None, "b": "x"}),
    ]
    pq.write_table(pa.table({"question": ["Hello"], "sound": [b"\x00"]}), tmp_path / "bytes.parquet")
    with pytest.raises(DataError, match=r"bytes.parquet:1: a value of type bytes can't be kept for reward functions"):
        data_of(str(tmp_path / "bytes.parquet"))


@pytest.mark.parametrize("too_long", ["truncate", "error"])
def test_a_long_prompt_is_never_cut(data_of, jsonl, too_long):
    path = jsonl([{"prompt": "Two"}, {"prompt": "four " * 40}])
    with pytest.raises(DataError) as caught:
        data_of(path, max_length=16, too_long=too_long)
    assert "prompts are longer than max_length:\n" in str(caught.value)
    assert "rows.jsonl:2: " in str(caught.value)
    assert "tokens, the limit is 16" in str(caught.value)
    assert "raise data.max_length, or set data.too_long to drop" in str(caught.value)
    data = data_of(path, max_length=16, too_long="drop")
    assert (len(data.train), data.report.sources[0].dropped) == (1, 1)
    with pytest.raises(DataError, match=r"no prompt of the train data is left \(1 rows, 1 dropped\)"):
        data_of([{"prompt": "four " * 40}], max_length=16, too_long="drop")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": None}, "the field 'prompt' is null"),
        ({"question": "a"}, "the field 'prompt' is missing (found: question)"),
        ({"prompt": ""}, "the field 'prompt' is empty"),
        ({"prompt": 3}, "the field 'prompt' is a int, not text"),
        ({"prompt": []}, "'prompt': there are no messages"),
        ({"prompt": [ASKED, ANSWER]}, "'prompt' ends with an answer, so there is nothing left to ask"),
        ({"prompt": [{"role": "user", "content": None}]}, "'prompt': message 1 (user): 'content' is null"),
        ({"prompt": [{**ASKED, "train": True}]}, "'prompt': a message says itself whether it is learnt"),
        (
            {"prompt": [ASKED], "completions": ["a"]},
            "reward functions get something else under the name of the column completions",
        ),
        ('{"prompt": [{"role": "user", "content": "\\ud83d"}]}', "the row holds half of a surrogate pair"),
        ('{"prompt": [{"role": "user", "content": "a"}], "answer": "\\ud83d"}', "the row holds half of a surrogate pair"),
        ('{"prompt": "a", "deep": ' + "[" * 900 + "]" * 900 + "}", None),
    ],
)
def test_bad_prompts_are_named_with_their_line(data_of, row, message):
    rows = [{"prompt": [ASKED]}] * 100 + [row, {"prompt": [ASKED]}]
    if message is None:
        with pytest.raises(DataError, match="others are messages"):
            data_of(rows)
        return
    with pytest.raises(DataError) as caught:
        data_of(rows)
    assert f"rows.jsonl:101: {message}" in str(caught.value)
    data = data_of(rows, on_bad_row="skip")
    assert (len(data.train), data.report.sources[0].bad) == (101, 1)


def test_sources_that_are_no_prompts(data_of):
    with pytest.raises(
        DataError, match="the columns a can't be used by grpo and rloo: prompts needs prompt, question or messages"
    ):
        data_of([{"a": 1}])
    with pytest.raises(DataError, match=r"the format 'chat' is for sft.*, and grpo and rloo can use prompts only"):
        data_of([{"messages": [ASKED]}], format="chat")
    with pytest.raises(DataError, match="something else under the name of the column completion"):
        data_of([{"prompt": "a", "completion": "b"}])
    with pytest.raises(DataError, match="something else under the name of the column prompt"):
        data_of([{"prompt": "a", "q": "b"}], columns={"question": "q"})
    with pytest.raises(
        DataError, match=r"rows.jsonl:101: a system prompt needs the chat template, and this prompt is plain text"
    ):
        data_of([{"prompt": "a"}] * 100 + [{"prompt": "a", "system": "Be kind."}])


def test_text_and_messages_do_not_mix(data_of):
    with pytest.raises(DataError) as caught:
        data_of([{"prompt": "Hello"}], [{"prompt": "Bye"}, {"prompt": [ASKED]}])
    assert "rows.jsonl:1) and others are messages (" in str(caught.value)
    assert "rows1.jsonl:2); a batch has one kind only" in str(caught.value)
    data = data_of([{"prompt": "Hello"}], [{"prompt": "Bye"}, {"prompt": [ASKED]}], columns={"question": "prompt"})
    assert [row["prompt"] for row in Collator(0, PROMPT)(list(data.train))][::2] == [[ASKED], [ASKED]]


def test_what_trl_asks_is_what_was_measured(data_of, smollm2):
    """trl's GRPOTrainer tokenises `prompt` itself; the lengths that were checked must be those."""
    from trl import GRPOTrainer

    trainer = GRPOTrainer.__new__(GRPOTrainer)
    trainer.processing_class, trainer.environments, trainer._multi_environment = smollm2, None, False
    trainer._is_vlm, trainer.environment_factories = False, None
    trainer.tools, trainer.chat_template, trainer.chat_template_kwargs, trainer._tokenizer = None, None, {}, smollm2
    for rows in ([{"question": "What is two plus two?"}, {"question": "Hello"}], [{"prompt": "Two plus"}, {"prompt": "One"}]):
        data = data_of(rows, tokenizer=smollm2)
        prompts = [row["prompt"] for row in Collator(0, PROMPT)(list(data.train))]
        assert [list(ids) for ids in trainer._tokenize_prompts(prompts)[0]] == [row["input_ids"] for row in data.train]
