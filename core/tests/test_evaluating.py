"""What is logged is what preview marks: losses computed again from the prepared rows and the model's logits, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from torch.nn.functional import logsigmoid
from torch.utils.data import BatchSampler
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from longline import Plugin, hookimpl, methods
from longline.cli import run_cli
from longline.config.loader import load_config
from longline.errors import EXIT_CONFIG, ConfigError, DataError
from longline.events import IGNORED
from longline.plan import Machine, build_plan
from longline.plugins import LoadedPlugin, PluginConfig
from longline.run import prepare
from longline.trainers.answering import AnsweredBatches
from longline.trainers.evaluating import EvaluationBatches

BETA, GAMMA = 0.1, 0.5
Scored = tuple[torch.Tensor, int]
"""The sum of log probabilities of what is marked, float64, and of how many tokens."""


def pairs(count: int) -> list[dict[str, Any]]:
    """Plain text and messages in turn would be two sources; these are messages whose answers differ in length by far."""
    return [
        {
            "prompt": [{"role": "user", "content": f"How many hooks for {number} cod?"}],
            "chosen": [{"role": "assistant", "content": "Take " + "one more " * (1 + 7 * (number % 3)) + f"of {number}."}],
            "rejected": [{"role": "assistant", "content": f"No idea about {number}. " * (1 + number % 2)}],
        }
        for number in range(count)
    ]


def labelled(count: int) -> list[dict[str, Any]]:
    return [
        {"prompt": row["prompt"], "completion": row["chosen" if number % 3 else "rejected"], "label": bool(number % 3)}
        for number, row in enumerate(pairs(count))
    ]


def answers(count: int) -> list[dict[str, Any]]:
    return [{"messages": [*row["prompt"], *row["chosen"]]} for row in pairs(count)]


class Model:
    """A model that is asked for one text at a time."""

    def __init__(self, folder: Path, *, score: bool = False) -> None:
        cls: Any = AutoModelForSequenceClassification if score else AutoModelForCausalLM
        self.model = cls.from_pretrained(folder, dtype=torch.float32).eval()

    @torch.no_grad()
    def marked(self, ids: Sequence[int], labels: Sequence[int]) -> Scored:
        logits = self.model(torch.tensor([ids])).logits[0, :-1].double().log_softmax(-1)
        places = [place for place in range(1, len(ids)) if labels[place] != IGNORED]
        return logits[[place - 1 for place in places], [ids[place] for place in places]].sum(), len(places)

    @torch.no_grad()
    def score(self, ids: Sequence[int]) -> torch.Tensor:
        """The head's value for the last token, asked of the backbone itself: where a text ends is our own count."""
        states = self.model.model(torch.tensor([ids])).last_hidden_state[0, -1]
        return self.model.score(states).double()[0]


def sides(row: dict[str, Any]) -> list[tuple[list[int], list[int]]]:
    first = row["seq_lengths"][0]
    return [(row["input_ids"][part], row["labels"][part]) for part in (slice(first), slice(first, None))]


def mean(values: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.stack(list(values)).mean()


def learnt(scored: Sequence[Scored]) -> torch.Tensor:
    return -sum(total for total, _ in scored) / sum(count for _, count in scored)


def sft(rows: Any, policy: Model, reference: Model) -> torch.Tensor:
    return learnt([policy.marked(row["input_ids"], row["labels"]) for row in rows])


def compared(loss: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """A loss of the log probabilities (chosen, rejected) of each pair by the policy, and by the reference."""

    def computed(rows: Any, policy: Model, reference: Model) -> torch.Tensor:
        asked = [[tuple(model.marked(*side) for side in sides(row)) for row in rows] for model in (policy, reference)]
        return loss(*asked)

    return computed


def dpo(policy: Any, reference: Any) -> torch.Tensor:
    gained = [[ours[0] - theirs[0] for ours, theirs in zip(*pair, strict=True)] for pair in zip(policy, reference, strict=True)]
    return mean([-logsigmoid(BETA * (chosen - rejected)) for chosen, rejected in gained])


def cpo(policy: Any, reference: Any) -> torch.Tensor:
    return mean([-logsigmoid(BETA * (chosen[0] - rejected[0])) for chosen, rejected in policy]) + learnt([p[0] for p in policy])


def simpo(policy: Any, reference: Any) -> torch.Tensor:
    return mean(
        [-logsigmoid(BETA * (chosen[0] / chosen[1] - rejected[0] / rejected[1]) - GAMMA) for chosen, rejected in policy]
    )


def orpo(policy: Any, reference: Any) -> torch.Tensor:
    means = [[total / count for total, count in pair] for pair in policy]
    odds = [[value - torch.log1p(-value.exp()) for value in pair] for pair in means]
    return learnt([pair[0] for pair in policy]) - BETA * mean([logsigmoid(chosen - rejected) for chosen, rejected in odds])


def reward(rows: Any, policy: Model, reference: Model) -> torch.Tensor:
    return mean([-logsigmoid(policy.score(chosen[0]) - policy.score(rejected[0])) for chosen, rejected in map(sides, rows)])


def kto(rows: Any, policy: Model, reference: Model) -> torch.Tensor:
    kl = mean([mismatch(row, rows[at - 1], policy, reference) for at, row in enumerate(rows)]).clamp(min=0)
    losses = []
    for row in rows:
        ratio = policy.marked(row["input_ids"], row["labels"])[0] - reference.marked(row["input_ids"], row["labels"])[0]
        losses.append(1 - torch.sigmoid(BETA * (ratio - kl if row["label"] else kl - ratio)))
    return mean(losses)


def mismatch(row: dict[str, Any], other: dict[str, Any], policy: Model, reference: Model) -> torch.Tensor:
    """What policy and reference make of the answer of another row behind a row's prompt."""
    start, begin = (next(at for at, label in enumerate(one["labels"]) if label != IGNORED) for one in (row, other))
    ids, labels = (row[name][:start] + other[name][begin:] for name in ("input_ids", "labels"))
    return policy.marked(ids, labels)[0] - reference.marked(ids, labels)[0]


@dataclass(frozen=True)
class Case:
    """What a method learns from, its loss, its own arguments, and whether it scores."""

    rows: Callable[[int], list[dict[str, Any]]]
    loss: Callable[..., torch.Tensor]
    trainer: Mapping[str, Any]
    scores: bool = False


STILL = {"disable_dropout": True}
COMPARED = {**STILL, "beta": BETA}
CASES = {
    "sft": Case(answers, sft, {}),
    "dpo": Case(pairs, compared(dpo), COMPARED),
    "orpo": Case(pairs, compared(orpo), COMPARED),
    "cpo": Case(pairs, compared(cpo), COMPARED),
    "simpo": Case(pairs, compared(simpo), COMPARED),
    "reward": Case(pairs, reward, STILL, scores=True),
    "kto": Case(labelled, kto, COMPARED),
}


def options(method: str, tmp_path: Path, size: int, **trainer: Any) -> dict[str, Any]:
    """Steps of all 6 rows, in batches of 4 and of 2; an evaluation of 7 others."""
    sources, case = {}, CASES[method]
    for split, rows in (("train", case.rows(6)), ("eval", case.rows(13)[6:])):
        path = tmp_path / f"{split}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        sources[split] = [{"path": str(path)}]
    batches = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "per_device_eval_batch_size": size}
    shape = {"max_steps": None, "num_train_epochs": 3, "learning_rate": 1e-2, "seed": 1}
    return {
        "method": method,
        "data": {**sources, "max_length": 256},
        "trainer": {**batches, **shape, **case.trainer, **trainer},
    }


class Start(Plugin):
    """Keeps the model that training starts from: a reward model's head is made by the run."""

    def __init__(self, folder: Path) -> None:
        super().__init__(PluginConfig())
        self.folder = folder

    @hookimpl
    def on_train_begin(self, trainer: Any) -> None:
        trainer.accelerator.unwrap_model(trainer.model).save_pretrained(self.folder)


@pytest.mark.parametrize("method", CASES)
def test_losses_are_those_of_the_rows_that_preview_shows(method, run_longline, tmp_path):
    """In training over all rows of a step, with a short batch in it; in an evaluation over all rows, with a short batch."""
    outcome = run_longline(plugins=[Start(tmp_path / "start")], **options(method, tmp_path, 3))
    _, _, data = prepare(load_config(outcome.output_dir / "config.yaml"), "preview")
    case = CASES[method]
    start, end = (Model(folder, score=case.scores) for folder in (tmp_path / "start", outcome.output_dir / "model"))
    first = next(event for event in outcome.log if "loss" in event)
    assert first["loss"] == pytest.approx(case.loss(list(data.train), start, start).item(), abs=2e-5)
    evaluations = [event["eval_loss"] for event in outcome.log if "eval_loss" in event]
    assert len(set(evaluations)) == 3
    assert evaluations[-1] == pytest.approx(case.loss(list(data.eval), end, start).item(), abs=2e-5)


@pytest.mark.parametrize("method", CASES)
def test_the_numbers_of_an_evaluation_do_not_depend_on_its_batches(method, run_longline, tmp_path):
    whole, *others = (_evaluated(run_longline, options(method, tmp_path, size), tmp_path / f"run-{size}") for size in (7, 1, 4))
    assert "eval_loss" in whole
    for other in others:
        assert other == pytest.approx(whole, abs=2e-5)
    known = methods.find(method).measures()
    assert known is not None
    assert {name.removeprefix("eval_") for name in whole} <= known | {"logits/chosen", "logits/rejected"}


def _evaluated(run: Callable[..., Any], given: dict[str, Any], folder: Path) -> dict[str, float]:
    """What the last evaluation logged, but for speeds, and for the mean logit of orpo and cpo, which is of padding, too."""
    log = run(output_dir=str(folder), **given).log
    event = [event for event in log if "eval_loss" in event][-1]
    odd = ("runtime", "per_second", *(("logits/chosen", "logits/rejected") if "eval_nll_loss" in event else ()))
    return {name: value for name, value in event.items() if name.startswith("eval_") and not name.endswith(odd)}


@pytest.mark.parametrize("method", ["dpo", "orpo"])
def test_the_best_model_is_chosen_by_a_number_that_trl_computes(method, run_longline, tmp_path):
    best = {"load_best_model_at_end": True, "metric_for_best_model": "rewards/margins", "greater_is_better": False}
    outcome = run_longline(**options(method, tmp_path, 3, save_strategy="epoch", **best))
    margins = [event["eval_rewards/margins"] for event in outcome.log if "eval_rewards/margins" in event]
    state = json.loads((outcome.output_dir / "checkpoint-3" / "trainer_state.json").read_text())
    assert len(margins) == 3
    assert state["best_metric"] == min(margins)


class Counting(Plugin):
    """Lets an evaluation give a number of its own."""

    @hookimpl
    def post_trainer_create(self, trainer: Any) -> None:
        trainer.compute_metrics = lambda _: {"hooks": 7.0}


@pytest.mark.parametrize(
    ("method", "metric", "hint"),
    [
        ("sft", "accuracy", "it gives loss"),
        ("sft", "eval_los", "did you mean `loss`?"),
        ("dpo", "reward/margins", "rewards/margins"),
    ],
)
def test_a_number_that_no_evaluation_gives_is_refused_before_the_run(method, metric, hint, run_config, tmp_path, capsys):
    config = run_config(**options(method, tmp_path, 3, save_strategy="epoch", metric_for_best_model=metric))
    for command in ("check", "train"):
        assert run_cli([command, str(config)]) == EXIT_CONFIG
        told = capsys.readouterr().err
        assert f"trainer.metric_for_best_model: an evaluation of {method} gives no {metric.removeprefix('eval_')!r}" in told
        assert hint in told
    assert not (tmp_path / "run").exists()


def test_a_plugin_may_give_numbers_and_what_nobody_gives_ends_the_first_evaluation(run_longline, tmp_path):
    plugin = LoadedPlugin.of(Counting(PluginConfig()))
    outcome = run_longline(
        plugins=[plugin], **options("sft", tmp_path, 3, save_strategy="epoch", metric_for_best_model="hooks")
    )
    state = json.loads((outcome.output_dir / "checkpoint-3" / "trainer_state.json").read_text())
    assert state["best_metric"] == 7.0
    given = {**options("sft", tmp_path, 3, metric_for_best_model="hoks"), "output_dir": str(tmp_path / "other")}
    with pytest.raises(ConfigError, match=r"metric_for_best_model: the evaluation gives no 'hoks'") as told:
        run_longline(plugins=[plugin], **given)
    assert "hooks" in str(told.value.hint)


def test_what_orpo_learns_is_the_answer_and_its_end(run_longline, tmp_path):
    """The log names it apart: neither the prompt, nor the line break behind the end."""
    outcome = run_longline(plugins=[Start(tmp_path / "start")], **options("orpo", tmp_path, 3, eval_strategy="no"))
    _, _, data = prepare(load_config(outcome.output_dir / "config.yaml"), "preview")
    start = Model(tmp_path / "start")
    expected = learnt([start.marked(*sides(row)[0]) for row in data.train])
    assert next(event for event in outcome.log if "loss" in event)["nll_loss"] == pytest.approx(expected.item(), abs=2e-5)


class Weights(Plugin):
    """Saves the model that each step starts from."""

    def __init__(self, folder: Path) -> None:
        super().__init__(PluginConfig())
        self.folder = folder

    @hookimpl
    def pre_optimizer_step(self, trainer: Any, step: int) -> None:
        trainer.accelerator.unwrap_model(trainer.model).save_pretrained(self.folder / str(step))


def test_kto_pairs_the_one_row_of_a_last_batch_with_another(run_longline, tmp_path, tiny_model_dir):
    """Paired with itself, its KL term would be its reward / beta, and its loss a half."""
    given = options("kto", tmp_path, 1, per_device_train_batch_size=5, gradient_accumulation_steps=1, num_train_epochs=1)
    outcome = run_longline(plugins=[LoadedPlugin.of(Weights(tmp_path / "steps"))], **given)
    _, _, data = prepare(load_config(outcome.output_dir / "config.yaml"), "preview")
    policy, reference = Model(tmp_path / "steps" / "2"), Model(tiny_model_dir)
    rows = list(data.train)
    kl = mismatch(rows[-1], rows[-2], policy, reference).clamp(min=0).item()
    logged = [event for event in outcome.log if "loss" in event][1]
    assert logged["kl"] == pytest.approx(kl, abs=1e-4)
    ratio = (
        policy.marked(rows[-1]["input_ids"], rows[-1]["labels"])[0]
        - reference.marked(rows[-1]["input_ids"], rows[-1]["labels"])[0]
    )
    good = 1 if rows[-1]["label"] else -1
    assert logged["loss"] == pytest.approx(torch.sigmoid(-BETA * good * (ratio - kl)).item(), abs=1e-5)
    assert logged["loss"] != pytest.approx(0.5, abs=1e-4)


def test_kto_needs_two_rows(run_longline, tmp_path):
    given = options("kto", tmp_path, 1)
    (tmp_path / "eval.jsonl").write_text(json.dumps(labelled(1)[0]) + "\n")
    with pytest.raises(DataError, match="the evaluation data has one row"):
        run_longline(**given)


@pytest.mark.parametrize(("rows", "size", "ranks"), [(61, 4, 2), (61, 2, 4), (8, 2, 4), (3, 2, 4), (9, 8, 2)])
@pytest.mark.parametrize("drop_last", [False, True])
def test_rows_that_are_trained_on_twice_are_those_that_accelerate_deals_out(rows, size, ranks, drop_last, run_config):
    trainer = {"per_device_train_batch_size": size, "dataloader_drop_last": drop_last}
    plan = build_plan(load_config(run_config(trainer=trainer)).config, Machine(world_size=ranks))
    batches = BatchSampler(range(rows), size, drop_last)
    dealt = [number for rank in range(ranks) for batch in BatchSamplerShard(batches, ranks, rank) for number in batch]
    assert methods.find("sft").repeated(rows, plan) == len(dealt) - len(set(dealt))


@pytest.mark.parametrize(("rows", "size", "ranks"), [(7, 1, 2), (5, 2, 4), (8, 2, 2), (1, 8, 4), (61, 2, 4)])
def test_ranks_share_rows_and_have_as_many_batches(rows, size, ranks):
    dealt = [EvaluationBatches(range(rows), size, rank, ranks) for rank in range(ranks)]
    assert len({len(batches) for batches in dealt}) == 1
    own = [batch for batches in dealt for batch in list(batches)[: batches.own]]
    assert sorted(number for batch in own for number in batch) == list(range(rows))
    alone = list(EvaluationBatches(range(rows), size, 0, 1))
    assert sorted(own) == alone


@pytest.mark.parametrize(
    ("prompts", "answers", "size", "ranks", "repeated"), [(3, 2, 2, 2, 0), (5, 4, 2, 4, 0), (3, 4, 1, 8, 1)]
)
def test_answers_of_a_prompt_are_drawn_at_once_on_ranks(prompts, answers, size, ranks, repeated):
    dealt = [AnsweredBatches(prompts, answers, size, rank, ranks) for rank in range(ranks)]
    assert dealt[0].repeated == repeated
    drawn: list[int] = []
    for parts in zip(*dealt, strict=True):
        assert {len(part) for part in parts} <= set(range(1, size + 1))
        together = [number for part in parts for number in part]
        assert all(together.count(number) % answers == 0 for number in together)
        drawn += together
    assert sorted(drawn)[: prompts * answers] == sorted([*range(prompts), *range(repeated)] * answers)[: prompts * answers]


def test_grpo_scores_each_prompt_of_an_evaluation_as_often(run_longline, tmp_path):
    """Three prompts in batches of two and one: their mean is 2, and the mean of the batches' means 2.25."""
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps({"prompt": f"fish {n}", "number": n}) + "\n" for n in (1, 2, 3)))
    (tmp_path / "scores_of_three.py").write_text("def number(number, **columns): return number\n")
    source = [{"path": str(tmp_path / "prompts.jsonl"), "format": "prompts"}]
    trainer = {"num_generations": 2, "max_completion_length": 4, "per_device_eval_batch_size": 4, "max_steps": 1}
    given = {"method": "grpo", "data": {"train": source, "eval": source}, "rewards": "scores_of_three:number"}
    outcome = run_longline(trainer={**trainer, "eval_strategy": "steps", "eval_steps": 1}, **given)
    assert next(event["eval_reward"] for event in outcome.log if "eval_reward" in event) == pytest.approx(2.0)
