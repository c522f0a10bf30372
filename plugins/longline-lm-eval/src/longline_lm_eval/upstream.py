"""All that this plugin needs of the harness beyond its documentation; no other file touches such a name.

Importing this module does not import the harness.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout
from functools import cache
from io import TextIOBase
from shutil import which
from typing import Any, ClassVar

from longline.upstream import Assumption, every, reads

TESTED: dict[str, str] = {"lm-eval": ">=0.4.13,<0.4.14"}
"""The versions between which the tests ran: the same range as in the metadata of the distribution."""
OF_NO_USE = (
    "`pretrained` model kwarg is not of type",
    "Passed an already-initialized model",
    "generation_kwargs: %s specified",
)
"""How warnings begin that the harness gives for every model in memory, or for every gen_kwargs."""
logger = logging.getLogger("longline.lm_eval")


class _Once(logging.Handler):
    """Passes a warning of the harness on, each kind of it once in a process: some come for every batch."""

    seen: ClassVar[set[str]] = set()

    def emit(self, record: logging.LogRecord) -> None:
        kind = f"{record.name}:{record.lineno}"
        if kind in self.seen or str(record.msg).startswith(OF_NO_USE):
            return
        self.seen.add(kind)
        logger.warning("%s: %s", record.name, record.getMessage())


class _Log(TextIOBase):
    """What the harness prints, as lines of a log that nobody reads unless they ask."""

    def write(self, text: str) -> int:
        if text.strip():
            logger.debug("%s", text.strip())
        return len(text)


@contextmanager
def quiet(*, bars: bool = False) -> Iterator[None]:
    """While it lasts, the harness prints nothing, its warnings come once, it starts no processes, and asks git quietly.

    Its pool of processes for bootstrapped errors would be forks of the training process, with its handlers of signals. `bars`
    leaves progress bars on a terminal, where nothing else is drawn.
    """
    from lm_eval import evaluator

    own, handler, before = logging.getLogger("lm_eval"), _Once(logging.WARNING), os.environ.get("DISABLE_MULTIPROC")
    kept: dict[str, Any] = {name: getattr(evaluator, name) for name in ("get_git_commit_hash", "add_env_info")}
    was = (own.propagate, own.level)
    evaluator.get_git_commit_hash, evaluator.add_env_info = _commit, _environment(kept["add_env_info"])
    own.addHandler(handler)
    own.propagate = False
    own.setLevel(logging.WARNING)
    os.environ["DISABLE_MULTIPROC"] = "1"
    try:
        seen = bars and sys.stderr is sys.__stderr__ and sys.stderr.isatty()
        with redirect_stdout(_Log()), nullcontext() if seen else redirect_stderr(_Log()):  # type: ignore[type-var]
            yield
    finally:
        own.propagate = was[0]
        own.setLevel(was[1])
        own.removeHandler(handler)
        for name, value in kept.items():
            setattr(evaluator, name, value)
        os.environ.pop("DISABLE_MULTIPROC") if before is None else os.environ.update(DISABLE_MULTIPROC=before)


@contextmanager
def in_own_dtype(model: Any) -> Iterator[None]:
    """While it lasts, a model that is trained in mixed precision computes in the dtype of its weights, as whoever loads it does."""
    wrapped, own = (vars(model).get(name) for name in ("forward", "_original_forward"))
    if own is None:
        yield
        return
    model.forward = own
    try:
        yield
    finally:
        model.forward = wrapped


@cache
def _commit() -> str | None:
    """The commit of the folder, whose git says nothing to the person: most run folders are in no repository."""
    if which("git") is None:
        return None
    done = subprocess.run(["git", "describe", "--always"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


@cache
def _environment(add: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, Any]], None]:
    """The harness's own, which takes a second, called once for all tasks."""
    found: dict[str, Any] = {}

    def adding(storage: dict[str, Any]) -> None:
        if not found:
            add(found)
        storage.update(found)

    return adding


def merge_parts(whole: dict[str, Any], part: dict[str, Any]) -> None:
    """Add the results of one more task to `whole`, which is what the harness makes of several at once."""
    for key in PARTS:
        whole.setdefault(key, {}).update(part.get(key, {}))
    whole.update({key: value for key, value in part.items() if key not in PARTS})


PARTS = ("results", "groups", "group_subtasks", "configs", "versions", "n-shot", "higher_is_better", "n-samples", "samples")
"""What of results is a mapping by the names of tasks and groups."""


ASSUMPTIONS: tuple[Assumption, ...] = (
    Assumption(
        "lm_eval.evaluator.simple_evaluate",
        "0.4.13",
        "it takes a model and tasks that are made already, and asks git and the environment by names of its module",
        every(
            reads(
                "lm_eval.evaluator:simple_evaluate",
                says=(
                    'results["git_hash"] = get_git_commit_hash()',
                    "add_env_info(results)",
                    "loaded = task_manager.load(tasks)",
                ),
            ),
            reads("lm_eval.loggers.utils:add_env_info", takes=("storage",)),
        ),
    ),
    Assumption(
        "lm_eval.evaluator.evaluate",
        "0.4.13",
        "ranks share rows by lm.rank and lm.world_size; they meet in lm.all_gather, lm.barrier and lm.gather_object alone",
        reads(
            "lm_eval.evaluator:evaluate",
            says=(
                "rank=lm.rank",
                "world_size=lm.world_size",
                "lm.all_gather(",
                "lm.barrier()",
                "lm.gather_object(rank_metrics, dst=0)",
            ),
        ),
    ),
    Assumption(
        "lm_eval.api.metrics.bootstrap_stderr",
        "0.4.13",
        "with DISABLE_MULTIPROC in the environment it starts no processes, and its numbers are the same",
        every(
            reads(
                "lm_eval.api.metrics:bootstrap_stderr",
                says=('os.getenv("DISABLE_MULTIPROC")', "_bootstrap_internal_no_mp(f, xs, iters)"),
            ),
            reads("lm_eval.api.metrics:_bootstrap_internal_no_mp", says=("rnd = random.Random(i)",)),
        ),
    ),
    Assumption(
        "lm_eval.result_schema.EvalResults",
        "0.4.13",
        f"what of results is by the names of tasks and groups is {', '.join(PARTS)}",
        reads("lm_eval.evaluator_utils:EvalAcc._to_eval_results", says=tuple(f'"{name}"' for name in PARTS)),
    ),
    Assumption(
        "lm_eval.loggers.evaluation_tracker.EvaluationTracker",
        "0.4.13",
        "into the folder of a .json path it writes results as <stem>_<date>.json and samples as samples_<task>_<date>.jsonl",
        every(
            reads(
                "lm_eval.loggers.evaluation_tracker:EvaluationTracker.save_results_aggregated",
                takes=("self", "results", "samples"),
                says=('f"{path.stem}_{self.date_id}.json"',),
            ),
            reads(
                "lm_eval.loggers.evaluation_tracker:EvaluationTracker.save_results_samples",
                takes=("self", "task_name", "samples"),
                says=('f"samples_{task_name}_{self.date_id}.jsonl"',),
            ),
        ),
    ),
    Assumption(
        "lm_eval.models.huggingface.HFLM",
        "0.4.13",
        "of a model in memory it takes device and dtype as they are, calls eval() and tie_weights(), and changes no more",
        reads("lm_eval.models.huggingface:HFLM.__init__", says=("self._device = self._model.device", "self.model.eval()")),
    ),
    Assumption(
        "accelerate.Accelerator.prepare_model",
        "1.15.0",
        "where it puts mixed precision around a model's forward, it keeps the model's own as _original_forward",
        reads("accelerate:Accelerator.prepare_model", says=("model._original_forward = model.forward",)),
    ),
)
"""Everything undocumented that is called or replaced here."""
