"""The loss against a computation by hand, and the commands of Longline with a real tiny model."""

import json
import math

import pytest
import torch
from longline.cli import run_cli

from longline_newname.trainer import confident_loss


@pytest.fixture
def config(run_config):
    """A config of the method; keywords are merged into it."""

    def write(**overrides):
        return run_config(method="newname", **overrides)

    return write


def test_the_loss_is_cross_entropy_less_entropy():
    logits = torch.tensor([[[1.0, 3.0], [0.0, 0.0]]])
    labels = torch.tensor([[-100, 1]])
    chances = [math.exp(1) / (math.exp(1) + math.exp(3)), math.exp(3) / (math.exp(1) + math.exp(3))]
    entropy = -sum(chance * math.log(chance) for chance in chances)
    assert confident_loss(logits, labels, 0.0).item() == pytest.approx(-math.log(chances[1]))
    assert confident_loss(logits, labels, 0.5).item() == pytest.approx(-math.log(chances[1]) - 0.5 * entropy)


def test_a_row_without_a_label_costs_nothing():
    assert confident_loss(torch.randn(1, 3, 5), torch.full((1, 3), -100), 0.1).item() == 0


def test_check_plan_and_new_know_it(config, tmp_path, capsys):
    assert run_cli(["check", str(config())]) == 0
    assert "method newname" in capsys.readouterr().out
    assert run_cli(["plan", str(config())]) == 0
    path = tmp_path / "new.yaml"
    own = ["--method", "newname", "--data", "somebody/rows"]
    assert run_cli(["new", "config", str(path), *own]) == 0
    assert run_cli(["check", str(path)]) == 0


@pytest.mark.parametrize(
    ("trainer", "told"),
    [
        ({"beta": -1}, "trainer.beta: must be 0 or more, and is -1"),
        ({"betta": 1}, "trainer.betta: unknown field (did you mean `beta`?)"),
    ],
)
def test_what_cannot_be_is_refused_by_check(config, capsys, trainer, told):
    assert run_cli(["check", str(config(trainer=trainer))]) == 2
    assert told in capsys.readouterr().err


def test_it_learns(config, run_longline, capsys):
    outcome = run_longline(config(trainer={"max_steps": 20, "learning_rate": 1e-2}, data={"eval_fraction": 0.25}))
    assert outcome.result.status == "completed"
    losses = [event["loss"] for event in outcome.log if "loss" in event]
    assert sum(losses[-3:]) < sum(losses[:3])
    measures = outcome.output_dir / "measures.json"
    assert run_cli(["evaluate", str(outcome.output_dir), "--output", str(measures)]) == 0
    assert json.loads(measures.read_text())["measures"]["eval_loss"] > 0


def test_accumulated_batches_are_as_one(config, run_longline, tmp_path):
    losses = []
    for rows, batches in ((4, 1), (2, 2)):
        trainer = {
            "max_steps": 1,
            "per_device_train_batch_size": rows,
            "gradient_accumulation_steps": batches,
            "train_sampling_strategy": "sequential",
        }
        outcome = run_longline(config(trainer=trainer, output_dir=str(tmp_path / f"run{batches}")))
        losses.append(outcome.log[0]["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
