"""Undocumented names of trl, one function or constant each."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pkgutil import resolve_name
from typing import Any

from longline.upstream.assumption import Assumption, of, reads

REFERENCE_ADAPTER = "ref"
"""What trl calls its frozen copy of an adapter."""
PER_TOKEN = ("log_probs", "entropy", "log_sum_sq_probs", "mean_logits", "is_top1")
"""The fields [rows, length - 1] that a model with trl's fused head puts out; those that nobody asked for are None."""
NOTES = ("self._metrics[mode]", "metrics")
"""Into what trl's trainers write the numbers of an evaluation, by their names: in their source."""


def fuse_head(model: Any, args: Any) -> None:
    """Give a reference the head with which trl's online trainers score answers."""
    from trl.trainer.utils import add_fused_lm_head

    add_fused_lm_head(model, temperature=args.temperature, cast_lm_head_to_fp32=getattr(args, "cast_lm_head_to_fp32", False))


def shard_reference(model: Any, accelerator: Any) -> Any:
    """A frozen model, sharded by the accelerator's FSDP plugin."""
    from trl.models import prepare_fsdp

    return prepare_fsdp(model, accelerator)


def noted(trainer: Any) -> Any:
    """The metrics of trl's trainers by mode, as lists."""
    return getattr(trainer, "_stored_metrics", getattr(trainer, "_metrics", {}))


def forget_metric(trainer: Any, name: str) -> None:
    """Drop one of the metrics that a trainer of trl adds to its next log."""
    for metrics in noted(trainer).values():
        metrics.pop(name, None)


def take_metrics(trainer: Any) -> dict[str, float]:
    """Take what a trainer of trl would add to the log of an evaluation: what it noted of the batch that it evaluated last."""
    metrics = noted(trainer)["eval"]
    taken = {name: values[-1] for name, values in metrics.items()}
    metrics.clear()
    return taken


def accept_collator(trainer: Any) -> None:
    """Tell trl's ORPO and CPO that the collator makes the columns of theirs; they warn at every evaluation step otherwise."""
    trainer.use_dpo_data_collator = True


def answers_left(trainer: Any) -> dict[str, Any]:
    """The answers that trl's online trainers have drawn and are not done with, and how many batches they have learnt from."""
    every = trainer.args.steps_per_generation * trainer.num_iterations
    return {"batches": trainer._step, "answers": trainer._buffered_inputs if trainer._step % every else None}


def answer_from(trainer: Any, kept: Mapping[str, Any]) -> None:
    """Go on with what `answers_left` told."""
    trainer._step, trainer._buffered_inputs = kept["batches"], kept["answers"]


_assume = of("trl", "1.16.0")


def _reference_adapter(trainer: str) -> Callable[[], bool]:
    switched = f'adapter_name="{REFERENCE_ADAPTER}" if "{REFERENCE_ADAPTER}" in'
    return lambda: switched in inspect.getsource(resolve_name(f"trl:{trainer}"))


def _is_noted(trainer: str, name: str) -> Callable[[], bool]:
    def check() -> bool:
        found = inspect.getmodule(resolve_name(f"trl{'' if trainer.startswith('.') else ':'}{trainer}"))
        source = inspect.getsource(found) if found else ""
        return any(f'{place}[{form}{name}"]' in source for place in NOTES for form in ('"', 'f"{prefix}'))

    return check


_ONLINE = ("GRPOTrainer", "RLOOTrainer")
_REFERRING = ("DPOTrainer", "KTOTrainer", *_ONLINE)
_OFFLINE = ("DPOTrainer", "KTOTrainer", "RewardTrainer")
_CONCATENATED = ("orpo:ORPOTrainer", "cpo:CPOTrainer")


def _of_online(name: str) -> tuple[Assumption, ...]:
    """What is relied on of each trainer that draws answers."""
    return (
        _assume(
            f"{name}._generate_and_score_completions",
            "it answers and scores this rank's rows; tensors added to what it returns are shuffled and split with the rest",
            reads(f"trl:{name}._generate_and_score_completions", takes=("inputs",)),
            reads(
                f"trl:{name}._prepare_inputs",
                says=("= self._generate_and_score_completions(", "shuffle_sequence_dict(", "split_tensor_dict("),
            ),
        ),
        _assume(
            f"{name}._buffered_inputs",
            "the answers of a generation, one batch after the other by _step, and drawn anew as _step divides or where it is None",
            reads(
                f"trl:{name}._prepare_inputs",
                says=(
                    "if self._step % generate_every == 0 or self._buffered_inputs is None:",
                    "inputs = self._buffered_inputs[self._step % self.args.steps_per_generation]",
                ),
            ),
        ),
        _assume(
            f"{name}._calculate_rewards",
            "it returns the scores [answers of all ranks, functions] in the order of ranks, nan where there is none",
            reads(f"trl:{name}._generate_and_score_completions", says=("rewards_per_func = self._calculate_rewards(",)),
            reads(
                f"trl:{name}._calculate_rewards",
                says=("rewards_per_func = gather(rewards_per_func)", "torch.zeros(len(prompts), len(self.reward_funcs)"),
            ),
        ),
        _assume(
            f"{name}.ref_model",
            "with beta 0 the constructor loads no reference; a loss looks at beta and ref_model when it is computed",
            reads(f"trl:{name}.__init__", says=("if self.beta == 0.0:", "self.ref_model = None", "self.reward_func_names =")),
        ),
        _assume(
            f"{name}.num_generations_eval",
            "so many answers to a prompt stand side by side in the batches of an evaluation, in which ranks have as many",
            reads(f"trl:{name}._get_eval_sampler", says=("mini_repeat_count=self.num_generations_eval",)),
            reads(f"trl:{name}._generate_and_score_completions", says=("else self.num_generations_eval", "gather(")),
        ),
    )


def _of_concatenated(name: str) -> tuple[Assumption, ...]:
    """What is relied on of each trainer of trl's experiments, `module:class`."""
    return (
        _assume(
            f"experimental.{name.replace(':', '.')}._stored_metrics",
            "its values, by train and eval, are the metrics that log adds to the trainer's own",
            reads(f"trl.experimental.{name}.log", says=("self._stored_metrics[train_eval].items()",)),
        ),
        _assume(
            f"experimental.{name.replace(':', '.')}.concatenated_forward",
            "the loss calls it with the collator's batch; it reads chosen_ and rejected_ input_ids, attention_mask and labels; it "
            "returns the log probabilities and logits of both sides, then the mean that is learnt, which the loss adds",
            reads(
                f"trl.experimental.{name}.concatenated_forward",
                takes=("model", "batch"),
                says=("return (chosen_logps, rejected_logps, chosen_logits, rejected_logits, ", "nll_loss)"),
            ),
            reads(f"trl.experimental.{name}.get_batch_loss_metrics", says=("policy_nll_loss", "loss_coef * aux_loss")),
            reads(f"trl.experimental.{name}.get_batch_loss_metrics", says=("self.concatenated_forward(model, batch)",)),
            reads(f"trl.experimental.{name}.__init__", says=("self.use_dpo_data_collator =",)),
        ),
    )


ASSUMPTIONS: tuple[Assumption, ...] = (
    *(
        _assume(
            f"{name}: loss_type",
            "each trainer compares loss_type with all words that it takes, in a file beside that of its arguments",
            lambda name=name: (
                inspect.getfile(resolve_name(f"trl:{name}")).replace("_trainer.py", "_config.py")
                == inspect.getfile(resolve_name(f"trl:{name.replace('Trainer', 'Config')}"))
            ),
        )
        for name in ("DPOTrainer", "KTOTrainer", "GRPOTrainer")
    ),
    *(
        _assume(
            f"{name}: names of metrics",
            "a number of a batch is written under its name into one of upstream.trl.NOTES, in the file of the trainer",
            _is_noted(name, "rewards/margins"),
        )
        for name in ("DPOTrainer", "KTOTrainer", *(f".experimental.{name}" for name in _CONCATENATED))
    ),
    _assume(
        "trainer.utils.add_fused_lm_head",
        "it replaces the forward of one model; called with labels and fused_lm_head=True, that scores the backbone's "
        f"last_hidden_state, with shift_labels unshifted, and puts out {', '.join(PER_TOKEN)} and label_mask",
        reads(
            "trl.trainer.utils:add_fused_lm_head",
            takes=("model", "temperature", "cast_lm_head_to_fp32"),
            says=("model.forward = types.MethodType(", "backbone_outputs.last_hidden_state", "if shift_labels is None:"),
        ),
        lambda: {*PER_TOKEN, "label_mask"} <= set(resolve_name("trl.trainer.utils:FusedCausalLMOutput").__annotations__),
    ),
    _assume(
        "models.prepare_fsdp",
        "it shards a model that is not trained by the plugin of an accelerator",
        reads("trl.models:prepare_fsdp", takes=("model", "accelerator"), says=("accelerator.state.fsdp_plugin",)),
    ),
    _assume(
        "trainer.base_trainer._BaseTrainer._send_telemetry",
        "trl reports about a run in it, when a trainer is made",
        reads("trl.trainer.base_trainer:_BaseTrainer.__init__", says=("self._send_telemetry()",)),
    ),
    *(
        _assume(
            f"{name}._prepare_dataset",
            "the constructor passes every data set through it, which does all of the tokenising, and takes what it returns",
            reads(f"trl:{name}.__init__", says=("train_dataset = self._prepare_dataset(train_dataset",)),
        )
        for name in _OFFLINE
    ),
    *(
        _assume(
            f"{name}._metrics",
            "its values, by mode, are the metrics that log adds to the trainer's own",
            reads(f"trl:{name}.log", says=("self._metrics[mode].items()",)),
        )
        for name in (*_OFFLINE, *_ONLINE)
    ),
    *(
        _assume(
            f"{name}.__init__: add_adapter",
            f"its frozen copy of an adapter is called {REFERENCE_ADAPTER}; without one, it switches the adapter off instead",
            reads(f"trl:{name}.__init__", says=(f'add_adapter("{REFERENCE_ADAPTER}"',)),
            _reference_adapter(name),
        )
        for name in _REFERRING
    ),
    _assume(
        "KTOTrainer._compute_loss",
        "it asks the policy for the mismatch, then for the answers, and then the reference for both, all with the fused head",
        reads(
            "trl:KTOTrainer._compute_loss",
            says=(
                "KL_logps = self._compute_kl_logps(model, batch) ",
                "outputs = model(**model_kwargs, labels=completion_labels, fused_lm_head=True)",
                "ref_KL_logps = self._compute_kl_logps(self.ref_model, batch) ref_outputs = self.ref_model(",
                "self.calculate_KL",
            ),
        ),
    ),
    *(item for name in _ONLINE for item in _of_online(name)),
    *(item for name in _CONCATENATED for item in _of_concatenated(name)),
)
