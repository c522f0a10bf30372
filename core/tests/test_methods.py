"""Preference and reinforcement methods: each trains, tells of the rows that it used, and its numbers come out again elsewhere."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from longline import Completions, Plugin, hookimpl
from longline.cli import run_cli
from longline.config.loader import load_config
from longline.errors import ConfigError, TrainingError
from longline.inference.answers import answer_all
from longline.inference.measures import measure_loss
from longline.methods import find, names
from longline.plugins import LoadedPlugin, PluginConfig
from longline.run import train
from longline.trainers.trainer import LonglineTrainer

PAIRED = ("dpo", "orpo", "cpo", "simpo", "reward")
ANSWERING = ("grpo", "rloo")
LORA = {"type": "lora", "r": 4, "lora_dropout": 0.0}
FISH = ("cod", "tuna", "hake", "ling", "eel", "bream", "sole", "perch")


def pairs(count: int = 16) -> list[dict[str, Any]]:
    return [
        {
            "prompt": [{"role": "user", "content": f"How many hooks for {index} {FISH[index % 8]}?"}],
            "chosen": [{"role": "assistant", "content": f"Take {2 * index + 1} hooks."}],
            "rejected": [{"role": "assistant", "content": f"No idea about {index}, ask the {FISH[(index + 1) % 8]} again."}],
        }
        for index in range(count)
    ]


def labelled(count: int = 16) -> list[dict[str, Any]]:
    return [
        {"prompt": row["prompt"], "completion": row["chosen"] if index % 2 else row["rejected"], "label": bool(index % 2)}
        for index, row in enumerate(pairs(count))
    ]


def prompts(count: int = 16) -> list[dict[str, Any]]:
    return [{"prompt": row["prompt"], "wanted": index} for index, row in enumerate(pairs(count))]


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@dataclass(frozen=True)
class Case:
    """A method's rows and trainer fields, and what its rewards are made of: a log probability, its mean over the tokens, what a
    reference makes of the same, or a score of its own; whether pairs tell their odds, and advantages are in units of the spread.
    """

    rows: Callable[[], list[dict[str, Any]]] = pairs
    trainer: Mapping[str, Any] = field(default_factory=dict)
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    mean: bool = False
    compared: bool = False
    scored: bool = False
    odds: bool = False
    spread: bool = False
    logged: str = "rewards/margins"
    means: Callable[[Mapping[str, Any]], Any] = lambda row: row["margin"]
    """The column whose mean over a step trl logs as `logged`; None for a row that does not count."""


DRAWN: dict[str, Any] = {
    "rows": prompts,
    "trainer": {"num_generations": 2, "max_completion_length": 6},
    "evaluation": {"num_generations_eval": 2},
}
CASES = {
    "dpo": Case(compared=True),
    "orpo": Case(mean=True, odds=True),
    "cpo": Case(),
    "simpo": Case(mean=True),
    "reward": Case(scored=True, logged="margin"),
    "kto": Case(labelled, compared=True, logged="rewards/chosen", means=lambda row: row["reward"] if row["label"] else None),
    "grpo": Case(**DRAWN, spread=True),
    "rloo": Case(**DRAWN),
}


def columns(method: str, *scores: str) -> set[str]:
    """The columns that the method says its rows have, with those of the reward functions."""
    told = find(method).completions
    assert told is not None
    assert told.score in told.numbers
    return {*told.texts, *told.numbers, *scores}


def options(method: str, tmp_path: Path, **trainer: Any) -> dict[str, Any]:
    """A config for `run_longline`: 3 steps of 4 rows of the method's own data."""
    rows, own = CASES[method].rows(), CASES[method].trainer
    (tmp_path / "scores.py").write_text(SCORES, encoding="utf-8")
    return {
        "method": method,
        "model": {"dtype": "float32"},
        "data": {"train": [{"path": write(tmp_path / f"{method}.jsonl", rows)}]},
        "trainer": {"max_steps": 3, "per_device_train_batch_size": 4, "disable_dropout": True, **own, **trainer},
        **({"rewards": [{"function": "scores:length"}, {"function": "scores:wanted", "weight": 0.5}]} if own else {}),
    }


SCORES = """
def length(completions, **columns):
    return [float(len(text_of(completion))) for completion in completions]

def wanted(prompts, completions, wanted, **columns):
    return [None if number % 5 == 0 else number / 10 for number in wanted]

def text_of(completion):
    return completion if isinstance(completion, str) else completion[0]["content"]

def broken(completions, **columns):
    raise KeyError("no such fish")

def short(completions, **columns):
    return [1.0]

def texts(completions, **columns):
    return ["good"] * len(completions)

def infinite(completions, **columns):
    return [float("inf")] * len(completions)

def scaled(completions, factor, **columns):
    return [factor * 2.0] * len(completions)

number = 3
"""


class Watcher(Plugin):
    """Keeps what on_completions told, and the weights that each step started from."""

    def __init__(self) -> None:
        self.told: list[tuple[int, Completions]] = []
        self.weights: list[dict[str, torch.Tensor]] = []
        self.trainer: Any = None

    @hookimpl
    def pre_optimizer_step(self, trainer: Any) -> None:
        self.trainer = trainer
        model = trainer.accelerator.unwrap_model(trainer.model)
        state = get_peft_model_state_dict(model) if hasattr(model, "peft_config") else model.state_dict()
        self.weights.append({name: value.detach().clone() for name, value in state.items()})

    @hookimpl
    def on_completions(self, completions: Completions, step: int) -> None:
        self.told.append((step, completions))


def watch() -> tuple[Watcher, LoadedPlugin]:
    watcher = Watcher()
    return watcher, LoadedPlugin.of(watcher)


class Judge:
    """Computes rewards again, from the weights alone and with nothing of Longline or trl."""

    def __init__(self, folder: Path, state: dict[str, torch.Tensor], *, lora: bool, score: bool) -> None:
        cls: Any = AutoModelForSequenceClassification if score else AutoModelForCausalLM
        extra = {"num_labels": 1} if score else {}
        torch.manual_seed(42)
        self.policy = cls.from_pretrained(folder, dtype=torch.float32, **extra).eval()
        self.reference = cls.from_pretrained(folder, dtype=torch.float32, **extra).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        if lora:
            task = "SEQ_CLS" if score else "CAUSAL_LM"
            self.policy = get_peft_model(self.policy, LoraConfig(r=4, target_modules="all-linear", task_type=task)).eval()
            set_peft_model_state_dict(self.policy, state)
        else:
            self.policy.load_state_dict(state)

    def ids(self, row: dict[str, Any], side: str) -> tuple[list[int], int]:
        """Tokens of a conversation without the template's last line break, and where the answer begins."""
        prompt = self.tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, return_dict=False)
        text = self.tokenizer.apply_chat_template([*row["prompt"], *row[side]], tokenize=False)
        return self.tokenizer(text.removesuffix("\n"), add_special_tokens=False)["input_ids"], len(prompt)

    def log_probability(self, row: dict[str, Any], side: str, model: Any, *, mean: bool = False) -> float:
        ids, start = self.ids(row, side)
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0, :-1].double()
        each = logits.log_softmax(-1)[torch.arange(len(ids) - 1), torch.tensor(ids[1:])][start - 1 :]
        return (each.mean() if mean else each.sum()).item()

    def score(self, row: dict[str, Any], side: str) -> float:
        """The score head's value at the last token that is not padding: the template's line break."""
        text = self.tokenizer.apply_chat_template([*row["prompt"], *row[side]], tokenize=False)
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            return self.policy(torch.tensor([ids])).logits[0, 0].item()

    def reward(self, case: Case, row: dict[str, Any], side: str) -> float:
        if case.scored:
            return self.score(row, side)
        value = self.log_probability(row, side, self.policy, mean=case.mean)
        if case.compared:
            value -= self.log_probability(row, side, self.reference)
        return 0.1 * value  # beta


@pytest.mark.parametrize("adapter", [None, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("method", PAIRED)
def test_pairs_are_told_with_rewards_that_come_out_again(method, adapter, run_longline, tmp_path, tiny_model_dir):
    watcher, plugin = watch()
    run_longline(plugins=[plugin], adapter=adapter, **options(method, tmp_path, learning_rate=1e-2))
    assert [step for step, _ in watcher.told] == [1, 2, 3]
    _, told = watcher.told[2]
    case = CASES[method]
    assert told.method == method
    assert told.score == "margin"
    assert len(told.rows) == 4
    rows = {row["chosen"][0]["content"]: row for row in pairs()}
    judge = Judge(tiny_model_dir, watcher.weights[2], lora=adapter is not None, score=CASES[method].scored)
    for row in told.rows:
        source = rows[str(row["chosen"])]
        assert row["rejected"] == source["rejected"][0]["content"]
        assert source["prompt"][0]["content"] in str(row["prompt"])
        chosen, rejected = judge.reward(case, source, "chosen"), judge.reward(case, source, "rejected")
        assert row["reward_chosen"] == pytest.approx(chosen, abs=1e-4)
        assert row["reward_rejected"] == pytest.approx(rejected, abs=1e-4)
        assert row["margin"] == pytest.approx(chosen - rejected, abs=1e-4)
        assert set(row) == columns(method)
        if case.odds:
            odds = [value - math.log1p(-math.exp(value)) for value in (10 * chosen, 10 * rejected)]
            assert row["log_odds_ratio"] == pytest.approx(odds[0] - odds[1], abs=1e-4)
    assert any(abs(float(row["margin"])) > 1e-3 for row in told.rows)


@pytest.mark.parametrize("adapter", [None, LORA], ids=["full", "lora"])
def test_kto_tells_labels_and_rewards(adapter, run_longline, tmp_path, tiny_model_dir):
    watcher, plugin = watch()
    run_longline(plugins=[plugin], adapter=adapter, **options("kto", tmp_path, learning_rate=1e-2))
    _, told = watcher.told[2]
    assert told.score == "reward"
    rows = {row["completion"][0]["content"]: row for row in labelled()}
    judge = Judge(tiny_model_dir, watcher.weights[2], lora=adapter is not None, score=False)
    for row in told.rows:
        source = rows[str(row["completion"])]
        assert row["label"] is source["label"]
        assert source["prompt"][0]["content"] in str(row["prompt"])
        assert row["reward"] == pytest.approx(judge.reward(CASES["kto"], source, "completion"), abs=1e-4)
        assert set(row) == columns("kto")
    assert any(abs(float(row["reward"])) > 1e-3 for row in told.rows)


@pytest.mark.parametrize("adapter", [None, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("method", ANSWERING)
def test_answers_are_told_with_every_score_and_their_advantage(method, adapter, run_longline, tmp_path):
    watcher, plugin = watch()
    outcome = run_longline(plugins=[plugin], adapter=adapter, **options(method, tmp_path, learning_rate=1e-3, beta=0.05))
    assert [step for step, _ in watcher.told] == [1, 2, 3]
    numbers = {row["prompt"][0]["content"]: row["wanted"] for row in prompts()}
    for step, told in watcher.told:
        assert told.score == "reward"
        assert len(told.rows) == 4
        groups: dict[str, list[dict[str, Any]]] = {}
        for row in told.rows:
            question = str(row["prompt"]).split("\n")[1]
            number = numbers[question]
            assert row["length"] == len(str(row["completion"]))
            assert set(row) == columns(method, "length", "wanted")
            assert row["wanted"] == (None if number % 5 == 0 else pytest.approx(number / 10))
            assert row["reward"] == pytest.approx(row["length"] + 0.5 * (row["wanted"] or 0.0), abs=1e-4)
            groups.setdefault(question, []).append(dict(row))
        assert all(len(group) == 2 for group in groups.values())
        if CASES[method].spread:
            for group in groups.values():
                rewards = torch.tensor([row["reward"] for row in group], dtype=torch.float64)
                advantages = (rewards - rewards.mean()) / (rewards.std() + 1e-4)
                assert [row["advantage"] for row in group] == pytest.approx(advantages.tolist(), abs=1e-4)
        logged = next(event for event in outcome.log if event["step"] == step and "loss" in event)
        lengths = [row["length"] for row in told.rows]
        assert logged["rewards/length/mean"] == pytest.approx(sum(lengths) / 4, abs=1e-4)


def test_rloo_advantages_leave_one_out_and_charge_the_distance_to_the_reference(run_longline, tmp_path):
    """Without that charge (beta 0), each answer's advantage is its reward less the mean of the others'."""
    watcher, plugin = watch()
    run_longline(plugins=[plugin], **options("rloo", tmp_path, beta=0.0))
    for _, told in watcher.told:
        for row in told.rows:
            other = next(r for r in told.rows if r is not row and r["prompt"] == row["prompt"])
            assert row["advantage"] == pytest.approx(row["reward"] - other["reward"], abs=1e-4)


def test_rloo_charges_each_answer_its_distance_to_the_reference(run_longline, tmp_path, tiny_model_dir):
    """Computed again from the tokens and the weights that the last step started from: reward - beta * (log p - log p_ref)."""
    beta, watcher = 0.5, Watcher()
    kept: dict[str, Any] = {}

    class Keeper(Plugin):
        @hookimpl
        def pre_optimizer_step(self, trainer, step):
            kept[step] = trainer._buffered_inputs[0]

    plugins = [LoadedPlugin.of(watcher), LoadedPlugin.of(Keeper(PluginConfig()))]
    run_longline(plugins=plugins, **options("rloo", tmp_path, beta=beta, learning_rate=1e-2))
    judge = Judge(tiny_model_dir, watcher.weights[2], lora=False, score=False)
    batch, rows = kept[3], watcher.told[2][1].rows
    charged = []
    for index, row in enumerate(rows):
        prompt = batch["prompt_ids"][index][batch["prompt_mask"][index].bool()].tolist()
        answer = batch["completion_ids"][index][batch["completion_mask"][index].bool()].tolist()
        ids = torch.tensor([prompt + answer])
        with torch.no_grad():
            both = [model(ids).logits[0, :-1].double().log_softmax(-1) for model in (judge.policy, judge.reference)]
        places = range(len(prompt) - 1, len(prompt) + len(answer) - 1)
        policy, reference = (sum(each[place, ids[0, place + 1]].item() for place in places) for each in both)
        charged.append(row["reward"] - beta * (policy - reference))
        assert abs(policy - reference) > 1e-3
    for index, row in enumerate(rows):
        others = [charged[at] for at, other in enumerate(rows) if at != index and other["prompt"] == row["prompt"]]
        assert row["advantage"] == pytest.approx(charged[index] - sum(others) / len(others), abs=1e-4)


@pytest.mark.parametrize("method", [*PAIRED, "kto"])
def test_trl_logs_the_means_of_what_is_told(method, run_longline, tmp_path):
    watcher, plugin = watch()
    outcome = run_longline(
        plugins=[plugin],
        **options(method, tmp_path, learning_rate=1e-2, per_device_train_batch_size=2, gradient_accumulation_steps=2),
    )
    step, told = watcher.told[2]
    logged = next(event for event in outcome.log if event["step"] == step and "loss" in event)
    assert len(told.rows) == 4
    values = [value for value in map(CASES[method].means, told.rows) if value is not None]
    assert logged[CASES[method].logged] == pytest.approx(sum(values) / len(values), abs=1e-4)
    assert logged["num_tokens"] > 0


def test_nothing_is_noted_when_nobody_listens(run_config, tmp_path):
    """The test kit's recorder answers every hook, so this run has none."""

    class Quiet(Plugin):
        trainer: Any = None

        @hookimpl
        def on_train_begin(self, trainer):
            Quiet.trainer = trainer

        @hookimpl
        def on_step_end(self, step):
            assert not Quiet.trainer.noting
            assert Quiet.trainer.take_noted() == []

    result = train(
        load_config(run_config(**options("dpo", tmp_path))), plugins=[LoadedPlugin.of(Quiet(PluginConfig()), on_error="raise")]
    )
    assert result.status == "completed"
    assert Quiet.trainer.model.training


@pytest.mark.parametrize(("loss", "extra"), [("ipo", {}), ("hinge", {}), ("sigmoid", {"ld_alpha": 0.5})])
def test_dpo_losses_tell_the_rewards_that_trl_logs(loss, extra, run_longline, tmp_path):
    watcher, plugin = watch()
    outcome = run_longline(plugins=[plugin], **options("dpo", tmp_path, learning_rate=1e-2, loss_type=loss, **extra))
    step, told = watcher.told[2]
    logged = next(event for event in outcome.log if event["step"] == step and "loss" in event)
    for column, name in (("reward_chosen", "rewards/chosen"), ("reward_rejected", "rewards/rejected")):
        assert logged[name] == pytest.approx(sum(row[column] for row in told.rows) / 4, abs=1e-5)


def test_precomputed_references_give_the_same_losses(run_longline, tmp_path):
    losses = []
    for precompute in (False, True):
        watcher, plugin = watch()
        given = options("dpo", tmp_path, learning_rate=1e-2, precompute_ref_log_probs=precompute)
        outcome = run_longline(plugins=[plugin], output_dir=str(tmp_path / f"run{precompute}"), **given)
        losses.append([event["loss"] for event in outcome.log if "loss" in event])
        assert watcher.told[2][1].rows[0]["margin"] != 0
        roles = [line for line in outcome.hooks("pre_model_load") if "reference" in line]
        assert len(roles) == (0 if precompute else 1)
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


# --- the reference model --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "adapter", "extra", "expected"),
    [
        ("dpo", None, {}, ["policy", "reference"]),
        ("dpo", LORA, {}, ["policy"]),
        ("kto", None, {}, ["policy", "reference"]),
        ("grpo", None, {}, ["policy"]),
        ("grpo", None, {"beta": 0.1}, ["policy", "reference"]),
        ("grpo", LORA, {"beta": 0.1}, ["policy"]),
        ("rloo", None, {}, ["policy", "reference"]),
        ("orpo", None, {}, ["policy"]),
        ("reward", None, {}, ["policy"]),
    ],
)
def test_each_model_is_loaded_once_and_says_its_role(method, adapter, extra, expected, run_longline, tmp_path):
    outcome = run_longline(adapter=adapter, **options(method, tmp_path, max_steps=1, **extra))
    for hook in ("pre_model_load", "post_model_load"):
        assert [line.partition("role=")[2].rstrip(")") for line in outcome.hooks(hook)] == expected


@pytest.mark.parametrize("start", [True, "pissa", "olora"])
def test_an_adapter_is_compared_with_its_own_start(start, run_longline, tmp_path):
    """PiSSA and OLoRA move the base's weights into the adapter, so that the base alone would be another model."""
    watcher, plugin = watch()
    given = options("dpo", tmp_path, learning_rate=1e-2, save_strategy="steps", save_steps=1)
    outcome = run_longline(plugins=[plugin], adapter={**LORA, "init_lora_weights": start}, **given)
    first, last = watcher.told[0][1], watcher.told[-1][1]
    assert [row["margin"] for row in first.rows] == pytest.approx([0.0] * 4, abs=1e-5)
    assert any(abs(float(row["margin"])) > 1e-3 for row in last.rows)
    assert ("ref" in watcher.trainer.model.peft_config) is (start is not True)
    assert not (outcome.output_dir / "model" / "ref").exists()


def test_lora_saves_the_tuned_adapter_alone(run_longline, tmp_path):
    outcome = run_longline(adapter=LORA, **options("dpo", tmp_path, max_steps=2, save_strategy="steps", save_steps=1))
    for folder in (outcome.output_dir / "model", outcome.output_dir / "checkpoint-1"):
        assert (folder / "adapter_model.safetensors").is_file()
        assert not (folder / "ref").exists()
    assert not (outcome.output_dir / "README.md").exists()
    model = AutoModelForCausalLM.from_pretrained(outcome.output_dir / "model")
    assert model is not None


# --- saving, going on, stopping -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("adapter", [None, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("method", [*PAIRED, "kto"])
def test_a_resumed_run_ends_with_the_same_losses(method, adapter, run_longline, tmp_path):
    given = options(method, tmp_path, learning_rate=1e-2, max_steps=4, save_strategy="steps", save_steps=2, logging_steps=1)
    straight = run_longline(adapter=adapter, **given)
    losses = [event["loss"] for event in straight.log if "loss" in event]
    (straight.output_dir / "model").rename(tmp_path / "model-before")
    for folder in straight.output_dir.glob("checkpoint-4"):
        folder.rename(tmp_path / folder.name)
    resumed = run_longline(adapter=adapter, resume="last", **given)
    again = [event["loss"] for event in resumed.log if "loss" in event]
    assert again == pytest.approx(losses, abs=1e-6)
    tokens = [event["num_tokens"] for event in resumed.log if "num_tokens" in event]
    assert tokens == [event["num_tokens"] for event in straight.log if "num_tokens" in event]


@pytest.mark.parametrize("method", [*PAIRED, "kto", *ANSWERING])
def test_evaluation_uses_the_same_rows_of_another_split(method, run_longline, tmp_path):
    own = CASES[method].evaluation
    given = options(method, tmp_path, eval_strategy="steps", eval_steps=3, per_device_eval_batch_size=4, **own)
    given["data"]["eval_fraction"] = 0.25
    outcome = run_longline(**given)
    evaluation = next(event for event in outcome.log if "eval_loss" in event)
    assert math.isfinite(evaluation["eval_loss"])
    assert not any(name.endswith("num_tokens") and name.startswith("eval") for name in evaluation)
    assert all(line.count("on_completions") == 1 for line in outcome.hooks("on_completions"))
    assert len(outcome.hooks("on_completions")) == 3


# --- rewards --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rewards", "error", "words"),
    [
        (["scores:broken"], TrainingError, ["broken failed: KeyError: 'no such fish'", "grpo.jsonl:"]),
        (["scores:short"], TrainingError, ["short returned 1 scores for 4 completions"]),
        (["scores:texts"], TrainingError, ["texts must return a number for each completion"]),
        (["scores:infinite"], TrainingError, ["infinite returned inf"]),
        (["scores:scaled"], TrainingError, ["scaled failed: TypeError"]),
        (["scores:lenght"], ConfigError, ["rewards.0: scores has no 'lenght'", "length"]),
        (["scores:number"], ConfigError, ["rewards.0: scores:number is a int, not a function"]),
        (["nowhere:f"], ConfigError, ["rewards.0.function: there is no module nowhere", "it is looked for in"]),
        (
            ["reasoning_gum"],
            ConfigError,
            ["rewards.0.function: there is no reward function 'reasoning_gum'", "reasoning_gym"],
        ),
        ([{"function": "scores:length", "name": "prompt"}], ConfigError, ["'prompt' is another column"]),
        ([{"function": "scores:length", "name": "reward"}], ConfigError, ["'reward' is another column"]),
        ([{"function": "scores:scaled", "options": {"wanted": 1}}], ConfigError, ["rewards.0.options: wanted is a column"]),
        (["reasoning_gym"], Exception, ["needs the columns answer and metadata, and the data has: wanted"]),
    ],
)
def test_a_reward_function_that_fails_is_named(rewards, error, words, run_longline, tmp_path):
    with pytest.raises(error) as caught:
        run_longline(**{**options("grpo", tmp_path), "rewards": rewards})
    for word in words:
        assert word in str(caught.value)


def test_reward_functions_get_their_options_and_a_name_of_their_own(run_longline, tmp_path):
    watcher, plugin = watch()
    given = {
        **options("grpo", tmp_path),
        "rewards": [{"function": "scores:scaled", "name": "four", "options": {"factor": 2.0}}],
    }
    run_longline(plugins=[plugin], **given)
    assert {row["four"] for _, told in watcher.told for row in told.rows} == {4.0}


def test_a_reward_function_may_be_called_margin(run_longline, tmp_path):
    """That word tells the score of pairs, and nothing here."""
    watcher, plugin = watch()
    run_longline(
        plugins=[plugin], **{**options("grpo", tmp_path), "rewards": [{"function": "scores:length", "name": "margin"}]}
    )
    assert {told.score for _, told in watcher.told} == {"reward"}


def test_a_plugin_gives_the_reward_functions(run_longline, tmp_path):
    from longline import RewardFunction

    class Judging(Plugin):
        @hookimpl
        def provide_reward_functions(self):
            return [RewardFunction("vowels", lambda completions, **columns: [float(len(text)) for text in completions])]

    watcher, plugin = watch()
    given = options("grpo", tmp_path)
    del given["rewards"]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"prompt": f"fish {n}"}) + "\n" for n in range(16)))
    given["data"]["train"] = [{"path": str(tmp_path / "texts.jsonl")}]
    given["rewards"] = ["scores:length"]  # the plugin answers first
    run_longline(plugins=[plugin, LoadedPlugin.of(Judging(PluginConfig()))], **given)
    assert all("vowels" in row for _, told in watcher.told for row in told.rows)


def test_reasoning_gym_scores_with_the_packages_own_function(run_longline, tmp_path):
    reasoning_gym = pytest.importorskip("reasoning_gym")
    from longline.methods.reasoning import score

    task = reasoning_gym.create_dataset("chain_sum", size=16, seed=1)
    rows = [{"question": entry["question"], "answer": entry["answer"], "metadata": entry["metadata"]} for entry in task]
    watcher, plugin = watch()
    given = {**options("grpo", tmp_path), "rewards": "reasoning_gym"}
    given["data"]["train"] = [{"path": write(tmp_path / "tasks.jsonl", rows)}]
    run_longline(plugins=[plugin], **given)
    assert {row["reasoning_gym"] for _, told in watcher.told for row in told.rows} <= {0.0, 0.01, 1.0}
    answers = [entry["answer"] for entry in task]
    about = [json.loads(json.dumps(entry["metadata"])) for entry in task]
    for wrap in ("{}", "<answer>{}</answer>", "It is <answer> {} </answer>."):
        given_answers = [wrap.format(answer) for answer in answers]
        assert score(given_answers, answers, about) == [1.0] * 16
    wrong = [f"<answer>{int(answer) + 1}</answer>" for answer in answers]
    expected = [task.score_answer(str(int(entry["answer"]) + 1), entry) for entry in task]
    assert score(wrong, answers, about) == expected
    assert score([[{"role": "assistant", "content": answers[0]}]], answers[:1], about[:1]) == [1.0]


# --- what a method says of itself -----------------------------------------------------------------------------------------------


def test_the_core_brings_these_and_each_has_a_case():
    assert set(names()) >= {"sft", *CASES}
    assert find("sft").completions is None


@pytest.mark.parametrize("method", ["sft", *CASES])
def test_what_a_method_names_is_there(method):
    found = find(method)
    assert find(method) is found
    assert found.name == method
    assert issubclass(found.trainer_class(), LonglineTrainer)
    assert set(found.fields()) == {item.name for item in dataclasses.fields(found.arguments_class()) if item.init} - PRIVATE
    assert set(found.defaults) <= set(found.fields())
    assert set(found.loss_types()).isdisjoint(found.refused)


PRIVATE = {"_n_gpu"}


@pytest.mark.parametrize("method", ["sft", *CASES])
def test_a_tuned_model_answers_and_is_measured_or_says_why_not(method):
    found = find(method)
    if CASES.get(method, Case()).scored:
        with pytest.raises(ConfigError, match=r"runs/a is a reward model: it scores texts and writes none\n.*--base"):
            found.answering("runs/a")
    else:
        assert found.answering("runs/a") is answer_all
    if found.chooses_trained:
        assert found.measuring("runs/a") is measure_loss
    else:
        with pytest.raises(ConfigError, match=f"and {method} has rows of another kind"):
            found.measuring("runs/a")


def test_a_tuned_reward_model_writes_nothing_and_its_base_does(run_longline, tmp_path, capsys):
    folder = str(run_longline(**options("reward", tmp_path)).output_dir)
    command = ["generate", folder, "--prompt", "How many hooks?", "--max-new-tokens", "2"]
    assert run_cli(command) == 2
    assert "is a reward model: it scores texts and writes none" in capsys.readouterr().err
    assert run_cli([*command, "--base"]) == 0


def test_a_reference_is_needed_where_nothing_was_computed_before():
    dpo, grpo = find("dpo"), find("grpo")
    assert dpo.has_reference(dpo.build_arguments({"output_dir": "a", "use_cpu": True}))
    assert not dpo.has_reference(dpo.build_arguments({"output_dir": "a", "use_cpu": True, "precompute_ref_log_probs": True}))
    assert not grpo.has_reference(grpo.build_arguments({"output_dir": "a", "use_cpu": True, "bf16": False}))


def test_what_the_arguments_refuse_is_a_fault_of_the_config():
    with pytest.raises(ConfigError, match=r"trainer: trl.DPOConfig: .*nothing_like_it"):
        find("dpo").build_arguments({"output_dir": "a", "nothing_like_it": 1})
