"""Every command of Longline with the method, on a real tiny model; the loss against every order there is."""

import itertools
import json
import math
import signal

import pytest
import torch
from safetensors.torch import load_file

from longline import Plugin, PluginConfig, hookimpl
from longline.cli import run_cli
from longline_toy.loss import pairs_right, plackett_luce


class Watch(Plugin):
    """Keeps the rows of on_completions."""

    def __init__(self):
        super().__init__(PluginConfig())
        self.rows = []

    @hookimpl
    def on_completions(self, completions):
        self.rows += completions.rows


class Stop(Plugin):
    """Asks the run to stop after two steps, as Ctrl-C does."""

    @hookimpl
    def on_step_end(self, step):
        if step == 2:
            signal.raise_signal(signal.SIGINT)


def rankings(count):
    """Rows with two or three answers."""
    answers = ["Take {} hooks.", "Some hooks, maybe {}.", "No idea about {}, ask somebody else."]
    return [
        {"question": f"Hooks for {number} cod?", "answers": [text.format(number) for text in answers[: 2 + number % 2]]}
        for number in range(count)
    ]


@pytest.fixture
def config(run_config, tmp_path):
    """A config of the method and its rows; keywords are merged into it."""
    path = tmp_path / "rankings.jsonl"

    def write(rows=None, **overrides):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows or rankings(12)))
        data = {"train": [{"path": str(path), "format": "auto"}], "eval_fraction": 0.25, **overrides.pop("data", {})}
        trainer = {"max_steps": 4, "eval_strategy": "no", **overrides.pop("trainer", {})}
        return run_config(method="ranked", data=data, trainer=trainer, **overrides)

    return write


# --- the loss -------------------------------------------------------------------------------------------------------------------


def test_the_probabilities_of_all_orders_sum_to_one():
    scores = torch.tensor([0.3, -1.2, 2.0, 0.7])
    orders = {order: math.exp(-plackett_luce(scores[list(order)]).item()) for order in itertools.permutations(range(4))}
    assert sum(orders.values()) == pytest.approx(1, abs=1e-5)
    assert max(orders, key=orders.get) == (2, 3, 0, 1)
    assert plackett_luce(torch.tensor([1.0, 0.0])).item() == pytest.approx(math.log1p(math.exp(-1)))


def test_pairs_that_are_right_are_counted():
    assert pairs_right(torch.tensor([3.0, 2.0, 1.0])).item() == 1
    assert pairs_right(torch.tensor([2.0, 3.0, 1.0])).item() == pytest.approx(2 / 3)


# --- before a run ---------------------------------------------------------------------------------------------------------------


def test_check_and_plan_know_it(config, capsys):
    assert run_cli(["check", str(config())]) == 0
    assert "method ranked" in capsys.readouterr().out
    assert run_cli(["plan", str(config())]) == 0
    plan = " ".join(capsys.readouterr().out.split())
    assert "ranking" in plan
    assert "group_by_length" in plan


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"trainer": {"beta": -1}}, "trainer.beta: must be above 0, and is -1"),
        ({"trainer": {"betta": 1}}, "trainer.betta: unknown field (did you mean `beta`?)"),
        ({"trainer": {"label_smoothing_factor": 0.1}}, "a ranking has no labels to smooth"),
        ({"data": {"packing": True}}, "ranked compares whole rows, which cannot be packed"),
    ],
)
def test_what_cannot_be_is_refused_by_check(config, capsys, given, told):
    assert run_cli(["check", str(config(**given))]) == 2
    assert told in capsys.readouterr().err


def test_schema_and_new_know_it(tmp_path, capsys):
    assert run_cli(["schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert "nat of mean log probability" in schema["$defs"]["trainer.ranked"]["properties"]["beta"]["description"]
    path = tmp_path / "new.yaml"
    assert run_cli(["new", str(path), "--method", "ranked", "--data", "somebody/rows"]) == 0
    assert "ranking: question, answers" in path.read_text()
    assert run_cli(["check", str(path)]) == 0


def test_every_answer_is_previewed(config, capsys):
    assert run_cli(["preview", str(config(rankings(2)[1:], data={"eval_fraction": None})), "--rows", "1"]) == 0
    shown = capsys.readouterr().out.replace("[[", "⟦")
    assert [f"answer {number} of 3" in shown for number in (1, 2, 3)] == [True] * 3
    assert "⟦Take 1 hooks." in shown
    assert "rankings.jsonl: ranking (guessed)" in shown


@pytest.mark.parametrize("answers", [["one"], "one", ["one", ""], None])
def test_a_bad_row_is_named_with_its_place(config, capsys, answers):
    rows = [*rankings(2), {"question": "Why?", "answers": answers}]
    assert run_cli(["preprocess", str(config(rows))]) == 2
    assert "rankings.jsonl:3: the field 'answers' must be a list of two texts or more" in capsys.readouterr().err


# --- a run ----------------------------------------------------------------------------------------------------------------------


def test_it_learns_the_order_and_tells_of_its_rows(config, run_longline, capsys):
    watch = Watch()
    trainer = {"max_steps": 40, "eval_strategy": "steps", "eval_steps": 40, "learning_rate": 1e-2}
    outcome = run_longline(config(trainer=trainer), plugins=[watch])
    assert outcome.result.status == "completed"
    losses = [event["loss"] for event in outcome.log if "loss" in event]
    assert sum(losses[-5:]) < sum(losses[:5]) / 2
    assert any("eval_loss" in event for event in outcome.log)
    assert len(watch.rows) == 8 * 9  # 40 steps are 8 epochs of 9 rows
    row = watch.rows[-1]
    assert "Hooks for" in row["prompt"]
    assert row["best"].startswith("Take")
    assert row["score_best"] > row["score_worst"]
    assert row["pairs_right"] == 1
    measured(outcome.output_dir, capsys)
    assert run_cli(["generate", str(outcome.output_dir), "--prompt", "Hooks for 3 cod?", "--max-new-tokens", "4"]) == 0


def measured(run, capsys):
    """The tuned model ranks what it has not seen, its base does not: the measures are the method's own."""
    found = []
    for options in ([], ["--base"]):
        assert run_cli(["evaluate", str(run), *options, "--output", str(run / "measures.json")]) == 0
        found.append(json.loads((run / "measures.json").read_text())["measures"])
    capsys.readouterr()
    tuned, base = found
    assert tuned.keys() == {"eval_ranking_loss", "eval_pairs_right", "eval_best_first"}
    assert tuned["eval_ranking_loss"] < base["eval_ranking_loss"]
    assert tuned["eval_best_first"] == 1


def test_accumulated_batches_are_as_one(config, run_longline):
    one = run_longline(
        config(trainer={"max_steps": 1, "per_device_train_batch_size": 4, "train_sampling_strategy": "sequential"})
    )
    more = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "train_sampling_strategy": "sequential"}
    path = config(trainer={"max_steps": 1, **more}, output_dir=str(one.output_dir.parent / "more"))
    two = run_longline(path)
    weights = [load_file(outcome.output_dir / "model" / "model.safetensors") for outcome in (one, two)]
    assert one.log[0]["loss"] == pytest.approx(two.log[0]["loss"], rel=1e-4)
    assert all(torch.allclose(weights[0][name], weights[1][name], atol=1e-4) for name in weights[0])


def test_resumed_equals_uninterrupted(config, run_longline):
    whole = run_longline(config())
    path = config(output_dir=str(whole.output_dir.parent / "stopped"))
    assert run_longline(path, plugins=[Stop(PluginConfig())]).result.status == "interrupted"
    resumed = run_longline(path, resume="last")
    expected, found = (load_file(outcome.output_dir / "model" / "model.safetensors") for outcome in (whole, resumed))
    assert all(torch.equal(expected[name], found[name]) for name in expected)
