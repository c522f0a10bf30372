"""Cards: what stands in them, in which language, how long they may be."""

import json
from types import SimpleNamespace

import pytest

from longline import Alert, LonglineError, Summary
from longline.events import AlertLevel
from longline_lark.cards import MAX_BYTES, Card, encode, shorten
from longline_lark.config import LarkConfig
from longline_lark.messages import Told, Writer, fill, key_metrics, project_of
from longline_lark.throttle import Throttle
from longline_lark.webhook import Webhook
from longline_lark.words import WORDS, Words, number


def writer(**options) -> Writer:
    config = LarkConfig(**options)
    return Writer(config, Words(config.language), "demo", "20260101-000000-abcdef", config.project, lambda text: text)


def lines(card: Card) -> dict[str, str]:
    return dict(card.facts)


def test_both_languages_say_the_same_things():
    assert set(WORDS["en"]) == set(WORDS["zh"])
    for key, text in WORDS["en"].items():
        places = {name for name in ("metric", "value", "best", "count", "step", "steps", "seconds") if f"{{{name}}}" in text}
        assert places == {name for name in places if f"{{{name}}}" in WORDS["zh"][key]}, key


def test_the_end_of_a_run():
    summary = Summary(steps=1200, epochs=2.5, tokens=1_234_567, metrics={"loss": 0.51234, "eval_loss": 0.6, "train_loss": 0.7})
    card = writer(project="fish").end("complete", summary, 3725, 0, None)
    assert card.title == "demo: completed"
    assert lines(card) == {
        "Run": "demo",
        "Project": "fish",
        "Status": "completed",
        "Duration": "1 h 2 min",
        "Steps": "1,200",
        "Epochs": "2.50",
        "Tokens": "1,234,567",
        "train_loss": "0.7",
        "loss": "0.5123",
        "eval_loss": "0.6",
    }


def test_in_chinese():
    card = writer(language="zh", project="鱼").end("interrupted", Summary(steps=3), 75, 2, None)
    assert card.title == "demo: 已中断"
    assert lines(card) == {
        "运行": "demo",
        "项目": "鱼",
        "状态": "已中断",
        "时长": "1 分 15 秒",
        "步数": "3",
        "未送达": "之前的 2 条消息",
    }


@pytest.mark.parametrize("level", ["info", "warning", "error"])
def test_alerts_of_every_level(level: AlertLevel):
    card = writer().alert(Alert("the loss jumped", "from 2 to 9", level, step=7), repeats=3)
    assert card.title == "demo: the loss jumped"
    assert lines(card)["Step"] == "7"
    assert card.text == "from 2 to 9\n3 more like this since the last one."
    colours = {"info": "blue", "warning": "orange", "error": "red"}
    assert card.payload()["card"]["header"]["template"] == colours[level]


def test_a_link_becomes_a_button():
    card = writer(link="https://tracker.example/runs/{run}?name={name}").end("complete", Summary(), 1, 0, None)
    button = [item for item in card.payload()["card"]["body"]["elements"] if item["tag"] == "button"]
    assert button[0]["behaviors"] == [
        {"type": "open_url", "default_url": "https://tracker.example/runs/20260101-000000-abcdef?name=demo"}
    ]
    assert fill("https://a.example/{name}", "", "a b/c") == "https://a.example/a%20b%2Fc"


def test_nothing_in_a_card_is_markdown():
    """A text with Lark's tags in it calls nobody."""
    card = writer().alert(Alert("<at id=all></at>", "**<at id=all></at>**"))

    def tags(value):
        if isinstance(value, dict):
            return {value.get("tag")} | set().union(*(tags(item) for item in value.values()))
        return set().union(*(tags(item) for item in value)) if isinstance(value, list) else set()

    assert not tags(card.payload()) & {"markdown", "lark_md"}


@pytest.mark.parametrize("text", ["鱼" * 50_000, '"\\' * 50_000, "\x00\x1b[31m" * 9_000 + "end", "line\n" * 30_000])
def test_a_card_is_never_too_long_for_lark(text):
    facts = tuple((f"{text[:80]}{index}", text) for index in range(60))
    payload = Card("failed", text, facts, text=text, footer=text).payload()
    assert len(encode(payload)) <= MAX_BYTES
    assert payload["card"]["header"]["title"]["content"]


def test_a_long_error_keeps_its_name_and_its_end():
    card = Card("failed", "t", text="NetError: first\n" + "x" * 10_000 + "\nthe last line")
    shown = json.dumps(card.payload())
    assert "the last line" in shown
    assert "NetError: first" in shown


@pytest.mark.parametrize("message", ["x" * 10_000, "two\n" * 60 + "lines", '"\\' * 30_000, "鱼\x1b[31m\udcff" * 5000])
@pytest.mark.parametrize("kind", [ValueError, LonglineError])
def test_an_error_of_any_length_is_called_by_its_name_in_its_card(message, kind):
    try:
        raise kind(f"begins so {message} and ends so")
    except (ValueError, LonglineError) as error:
        told = Told.of(error, "train")
    payload = writer().end("failed", Summary(metrics={f"m{index}": 1.0 for index in range(20)}), 1, 0, told).payload()
    assert len(encode(payload)) <= MAX_BYTES
    shown = json.dumps(payload["card"]["body"])
    assert f"{'ValueError: ' if kind is ValueError else ''}begins so" in shown
    assert "and ends so" in shown


def test_shorten_never_splits_a_character_and_writes_out_what_is_obeyed():
    assert shorten("鱼" * 10, 10) == "鱼鱼鱼 ..."
    assert shorten("鱼" * 10, 20, ends=True) == "鱼 ... 鱼鱼鱼鱼鱼"
    assert shorten("\x1b[31mred\x1b[0m\x07", 100) == "\\x1b[31mred\\x1b[0m\\x07"
    assert shorten("lone \ud800 surrogate", 100) == "lone \\ud800 surrogate"


def test_the_last_lines_of_an_error():
    def deep(depth: int) -> None:
        if depth:
            deep(depth - 1)
        raise ValueError("out of hooks")

    try:
        deep(20)
    except ValueError as error:
        told = Told.of(error, "train")
    assert len(told.text.splitlines()) == 12
    assert told.text.endswith("ValueError: out of hooks")
    assert Told.of(LonglineError("no such file", hint="make it"), "data").text == "no such file\n  hint: make it"


def test_key_metrics_are_losses_first_and_no_speeds():
    metrics = {
        "learning_rate": 1e-4,
        "grad_norm": 1.0,
        "eval_runtime": 3.0,
        "eval_samples_per_second": 9.0,
        "train_runtime": 10.0,
        "train_steps_per_second": 1.0,
        "rewards/margins": 0.5,
        "eval_accuracy": 0.9,
        "loss": 2.0,
        "train_loss": 2.5,
        "note": "text",
    }
    assert [name for name, _ in key_metrics(metrics)] == ["train_loss", "loss", "eval_accuracy", "rewards/margins"]
    assert len(key_metrics({f"m{index}": 1.0 for index in range(50)})) == 8


def test_the_project_of_another_plugin():
    entries = [
        SimpleNamespace(name="lark", options={"project": "own"}),
        SimpleNamespace(name="tracker", options={"project": "x"}),
    ]
    assert project_of(entries) == "x"
    assert project_of([SimpleNamespace(name="tracker", options={"project": 3})]) is None


def test_numbers_and_durations():
    assert [number(value) for value in (float("nan"), float("inf"), 1234567, 0.000123456, "text")] == [
        "NaN",
        "infinity",
        "1,234,567",
        "0.0001235",
        "text",
    ]
    assert [Words("en").duration(value) for value in (0.04, 9.96, 59.6, 3599.7)] == [
        "0.0 s",
        "10.0 s",
        "1 min 0 s",
        "1 h 0 min",
    ]


def test_alerts_that_repeat_are_held_back_and_counted():
    throttle = Throttle()
    assert [throttle.take("a", now) for now in (0, 1, 30, 59.9)] == [0, None, None, None]
    assert throttle.take("b", 30) == 0
    assert throttle.take("a", 60) == 3
    assert throttle.take("a", 121) == 0
    for index in range(5000):
        throttle.take(f"loss {index}", 200)
    assert len(throttle._last) <= 1000


def test_a_card_is_accepted_as_it_is(lark):
    from pydantic import SecretStr

    from longline_lark.credentials import Credentials

    card = writer(link="https://t.example").end("failed", Summary(steps=2), 5, 1, Told("boom", "train"))
    hook = Webhook(Credentials(SecretStr(lark.url), SecretStr(lark.secret)))
    assert hook.post(card.payload(), 5).outcome == "delivered"
