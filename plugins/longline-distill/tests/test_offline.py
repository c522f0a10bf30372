"""A teacher's answers in the data, in every layout: the loss is that of the teacher in the process."""

from __future__ import annotations

import json
import re

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from longline import LonglineError, Plugin, PluginConfig, hookimpl
from longline.errors import DataError
from longline.testing import chat
from longline_distill.aligned import Vocabulary
from longline_distill.layouts import LayoutError, read

K = 12
ALL = {"max_steps": 1, "logging_steps": 1, "learning_rate": 0.0, "per_device_train_batch_size": 32}


class Keep(Plugin):
    """Keeps the prepared rows."""

    @hookimpl
    def post_data_load(self, data):
        self.rows = sorted(data.train, key=lambda row: row["row_ids"][0])


def values(outcome, name="loss"):
    return [event[name] for event in outcome.log if name in event]


@pytest.fixture(scope="module")
def answered(tiny_model_dir, teacher_dir):
    """For each conversation (ids, labels, log probabilities [tokens, vocabulary] of the token at each place, from the teacher)."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    teacher = AutoModelForCausalLM.from_pretrained(teacher_dir, dtype=torch.float32)
    found = []
    for row in chat(32):
        text = tokenizer.apply_chat_template(row["messages"], tokenize=False)
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            logs = torch.log_softmax(teacher(torch.tensor([ids])).logits[0].double(), 1)
        found.append((ids, torch.cat([logs[:1] * 0, logs[:-1]])))
    return tokenizer, found


def spans(tokenizer, ids):
    """Where the answer stands: behind the header of the assistant, up to the end of the turn and with it."""
    text = [tokenizer.decode([token]) for token in ids]
    starts = [at for at, part in enumerate(text) if part == "<|im_start|>"]
    header = tokenizer("<|im_start|>assistant\n", add_special_tokens=False)["input_ids"]
    found = []
    for start in starts:
        if ids[start : start + len(header)] == header:
            end = next(at for at in range(start + 1, len(ids)) if text[at] == "<|im_end|>")
            found += range(start + len(header), end + 1)
    return found


def top(logs, own, k=K):
    """The k likeliest, and the token itself."""
    best = [(int(token), float(logs[token])) for token in logs.topk(k).indices]
    return best if own in dict(best) else [*best, (own, float(logs[own]))]


def as_vllm(tokenizer, ids, logs):
    return [
        None,
        *({str(token): {"logprob": told, "rank": 1} for token, told in top(logs[at], ids[at])} for at in range(1, len(ids))),
    ]


def as_openai(tokenizer, ids, logs):
    def named(token, told):
        raw = Vocabulary(tokenizer).bytes_of[token]
        return {"token": raw.decode(errors="replace"), "bytes": list(raw), "logprob": told}

    content = [
        {**named(ids[at], float(logs[at][ids[at]])), "top_logprobs": [named(*pair) for pair in top(logs[at], ids[at])[:K]]}
        for at in spans(tokenizer, ids)
    ]
    return {"choices": [{"logprobs": {"content": content}}]}


def as_completion(tokenizer, ids, logs):
    places = spans(tokenizer, ids)
    return {
        "tokens": [f"token_id:{ids[at]}" for at in places],
        "token_logprobs": [float(logs[at][ids[at]]) for at in places],
        "top_logprobs": [{f"token_id:{token}": told for token, told in top(logs[at], ids[at])} for at in places],
    }


def as_arrays(tokenizer, ids, logs):
    def own_first(at):
        found = dict(top(logs[at], ids[at]))
        return [[ids[at], found.pop(ids[at])], *map(list, found.items())]

    return [own_first(at) for at in spans(tokenizer, ids)]


LAYOUTS = {"vllm": as_vllm, "openai": as_openai, "completion": as_completion, "arrays": as_arrays}


@pytest.fixture
def rows(tmp_path, answered):
    """Write the conversations with the teacher's answers; `change` may alter a row."""

    def write(make, change=lambda number, row: row, as_text=False):
        tokenizer, found = answered
        path = tmp_path / "answered.jsonl"
        with path.open("w") as file:
            for number, (row, (ids, logs)) in enumerate(zip(chat(32), found, strict=True)):
                told = make(tokenizer, ids, logs)
                row = {**row, "told": json.dumps(told) if as_text else told}
                file.write(json.dumps(change(number, row)) + "\n")
        return path

    return write


@pytest.fixture
def distill(run_longline):
    def run(path, data=None, plugins=(), trainer=None, **options):
        options = {"column": "told", "top_k": K, **options}
        data = {"train": [{"path": str(path), "format": "chat"}], **(data or {})}
        named = {"distill": options}
        return run_longline(
            method="distill", plugins=[named, *plugins], data=data, trainer={**ALL, **(trainer or {})}, overwrite=True
        )

    return run


@pytest.fixture
def expected(run_longline, teacher_dir):
    """Loss, divergence, agreement and the norm of gradients with the teacher in the process."""
    named = {"distill": {"teacher": str(teacher_dir), "top_k": K}}
    found = run_longline(method="distill", plugins=[named], trainer=ALL, overwrite=True)
    return {name: pytest.approx(values(found, name)[0], rel=1e-4) for name in ("loss", "kl", "agreement", "grad_norm")}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_the_teacher(rows, distill, expected, layout):
    outcome = distill(rows(LAYOUTS[layout], as_text=layout == "arrays"))
    assert {name: values(outcome, name)[0] for name in expected} == expected


def test_packed(rows, distill, expected):
    outcome = distill(rows(as_openai), data={"packing": True})
    assert values(outcome, "kl") == [expected["kl"]]
    assert values(outcome) == [expected["loss"]]


def test_cut(rows, distill, run_longline, teacher_dir):
    """What is beyond max_length is cut from answers as from rows."""
    path = rows(as_vllm)
    named = {"distill": {"teacher": str(teacher_dir), "top_k": K}}
    data = {"max_length": 40, "too_long": "truncate", "train": [{"path": str(path), "format": "chat"}]}
    local = run_longline(method="distill", plugins=[named], trainer=ALL, data=data, overwrite=True)
    for make in (as_vllm, as_arrays):
        cut = distill(rows(make), data={key: value for key, value in data.items() if key != "train"})
        assert values(cut, "kl")[0] == pytest.approx(values(local, "kl")[0], rel=1e-4)


def test_a_turn_end_that_the_teacher_says_nothing_of(rows, distill, expected):
    """OpenAI's content ends before the token that ends the turn: its label is learnt all the same."""
    outcome = distill(rows(as_openai, lambda number, row: cut_last(row)), alpha=0.5)
    assert values(outcome, "kl")[0] != expected["kl"]
    assert values(outcome, "kl")[0] == pytest.approx(expected["kl"].expected, rel=0.3)


def cut_last(row):
    row["told"]["choices"][0]["logprobs"]["content"].pop()
    return row


def other(number, row):
    """In the fourth row the answer is another one."""
    if number == 3:
        row["messages"][-1]["content"] = "Something else entirely."
    return row


@pytest.mark.parametrize("layout", LAYOUTS)
def test_answers_about_other_tokens_are_refused_with_their_row(rows, distill, layout):
    path = rows(LAYOUTS[layout], other)
    with pytest.raises(LonglineError, match=rf"1 of 32 samples; {re.escape(str(path))}:4: "):
        distill(path)


def test_or_counted_and_learnt_from_their_labels(rows, distill):
    keep = Keep(PluginConfig())
    outcome = distill(rows(as_openai, other), on_misaligned="skip", plugins=[keep], alpha=1.0)
    alert = next(alert for alert in outcome.manifest["alerts"] if "don't fit" in alert["title"])
    assert "1 of 32 samples are learnt from their labels alone" in alert["text"]
    wrong = next(row for row in keep.rows if row["row_ids"][0] == 3)
    assert {token for row in wrong["distill_ids"] for token in row} == {-1}
    assert values(outcome, "kl")[0] > 0


def test_a_row_without_an_answer(rows, distill):
    def without(number, row):
        return {key: value for key, value in row.items() if number != 5 or key != "told"}

    path = rows(as_openai, without)
    with pytest.raises(DataError, match="told"):
        distill(path)


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("not json", "a text that is no JSON"),
        ({"what": 1}, "none of the layouts"),
        ([], "an empty list"),
        (3, "none of the layouts"),
        ([[[5, 0.5]]], "0.5 is no log probability"),
        ([[[5, float("nan")]]], "nan is no log probability"),
        ([None, {"x": {"logprob": -1}}], "not what the layout"),
        ({"content": [{"logprob": -1}]}, "not what the layout"),
    ],
)
def test_what_is_no_answer(value, why):
    with pytest.raises(LayoutError, match=why):
        read(value)
