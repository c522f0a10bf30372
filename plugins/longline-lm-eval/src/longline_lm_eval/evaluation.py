"""An evaluation: one task after the other, each told when it is done, so that one that fails takes nothing else along."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from longline import LonglineError
from longline.errors import Interrupted
from longline_lm_eval import memory
from longline_lm_eval.ranks import OtherRankFailedError, Team
from longline_lm_eval.upstream import merge_parts, quiet

if TYPE_CHECKING:
    from longline_lm_eval.config import LmEvalConfig
    from longline_lm_eval.tasks import Loaded


@dataclass(slots=True)
class Evaluation:
    """A model on the tasks. `results` are in the harness's form, on the main rank; `failed` says of each task why it has none.

    `told` is called with the results so far and the name of a task or group, when it has them.
    """

    options: LmEvalConfig
    loaded: Loaded
    team: Team
    name: str
    told: Callable[[dict[str, Any], str], None]
    results: dict[str, Any] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    tracker: Any = None

    def run(self, model: Any, tokenizer: Any) -> None:
        """Evaluate; every rank of the team comes here. Model, tokenizer and random numbers are afterwards as they were."""
        from lm_eval.loggers import EvaluationTracker

        self.tracker = EvaluationTracker()
        common = self._common()
        with memory.lent(model, merged=self.options.merged):
            with quiet():
                lm = memory.wrapped(model, tokenizer, self.options, self.team)
            for name in common:
                with self._contained(name):
                    self._one(lm, name)
                if name in self.results.get("results", {}):
                    self.told(self.results, name)
        for name, group in self.loaded.groups.items():
            self._sum_up(name, group)

    def _common(self) -> list[str]:
        """The tasks that every rank could load; on another machine a cache may lack one."""
        here = list(self.loaded.tasks)
        everywhere = set.intersection(*map(set, self.team.exchange("tasks", here)))
        self.failed |= {name: "another rank has no data for it" for name in here if name not in everywhere}
        return [name for name in here if name in everywhere]

    @contextmanager
    def _contained(self, name: str) -> Iterator[None]:
        """Whatever one task raises ends that task, on all ranks; a signal ends them all."""
        self.team.apart = False
        try:
            yield
            self.team.exchange("done")
        except OtherRankFailedError as error:
            self.failed[name] = str(error)
        except (Interrupted, KeyboardInterrupt):
            self.team.fail("stopped")
            raise
        except Exception as error:
            self.failed[name] = _why(error)
            self.team.fail(self.failed[name])

    def _one(self, lm: Any, name: str) -> None:
        from lm_eval import simple_evaluate

        options, task = self.options, self.loaded.tasks[name]
        lm.alone = not self.team.shares or _rows(task, options.limit) < self.team.size
        with quiet(bars=self.team.rank == 0):
            found = simple_evaluate(
                model=lm,
                model_args={"pretrained": self.name},
                tasks=[task],
                task_manager=self.loaded.manager,
                evaluation_tracker=self.tracker,
                num_fewshot=options.num_fewshot,
                batch_size=options.batch_size,
                limit=options.limit,
                log_samples=options.log_samples,
                apply_chat_template=options.apply_chat_template,
                fewshot_as_multiturn=bool(options.apply_chat_template),
                gen_kwargs=deepcopy(options.gen_kwargs),
                confirm_run_unsafe_code=options.confirm_run_unsafe_code,
            )
        if found is not None and self.team.rank == 0:
            merge_parts(self.results, found)

    def _sum_up(self, name: str, group: Any) -> None:
        """The numbers of a group, if all of its tasks have some: a mean of the others would be of something else."""
        lacking = [task.task_name for task in group.get_all_tasks() if task.task_name in self.failed]
        if lacking:
            self.failed[name] = f"without {', '.join(lacking)} it has no sum"
        if lacking or not self.results:
            return
        with quiet():
            found = group.aggregate(self.results["results"])
        members = group.child_names
        part = {
            "results": {name: found},
            "groups": {name: found} if group.has_aggregation else {},
            "group_subtasks": {name: members},
            "versions": {name: group.version},
            "n-shot": _shots(self.results["n-shot"], name, members),
            "higher_is_better": _senses(self.results["higher_is_better"], name, members),
        }
        merge_parts(self.results, part)
        if not self.results["groups"]:
            del self.results["groups"]  # as the harness has it
        self.told(self.results, name)


def _shots(of: dict[str, Any], name: str, members: list[str]) -> dict[str, Any]:
    """How many examples a group has, where all of its members have as many."""
    said = {of[member] for member in members if member in of}
    return {name: said.pop()} if len(said) == 1 else {}


def _senses(of: dict[str, Any], name: str, members: list[str]) -> dict[str, Any]:
    """Whether more is better in each metric of a group; None where its members do not agree."""
    said: dict[str, Any] = {}
    for metric, sense in ((metric, sense) for member in members for metric, sense in of.get(member, {}).items()):
        said[metric] = sense if said.get(metric, sense) == sense else None
    return {name: said} if said else {}


def _rows(task: Any, limit: float | None) -> int:
    """How many rows of a task are asked, at least."""
    count = len(task.eval_docs)
    return count if limit is None else int(min(count, count * limit if limit < 1 else limit))


def _why(error: Exception) -> str:
    if isinstance(error, LonglineError):
        return error.message
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
