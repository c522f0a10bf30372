"""The plugin: tasks are loaded before anything else is, and asked when the trained model is saved, and at checkpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from longline import Finding, LonglineError, Plugin, Table, hookimpl
from longline.errors import Interrupted
from longline.upstream import untested
from longline_lm_eval import needs, results
from longline_lm_eval.config import LmEvalConfig

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from longline import Config, Plan, Problem, Run
    from longline_lm_eval.evaluation import Evaluation
    from longline_lm_eval.ranks import Team
    from longline_lm_eval.tasks import Loaded

FOLDER = "lm_eval"


class LmEvalPlugin(Plugin):
    """Evaluates the model in memory; the run goes on without a task that fails, unless it is strict."""

    Config = LmEvalConfig
    files = frozenset({FOLDER})
    config: LmEvalConfig

    def __init__(self, config: LmEvalConfig) -> None:
        super().__init__(config)
        self._loaded: Loaded | None = None
        self._last = 0

    @property
    def _evaluates(self) -> bool:
        return self.config.post_train or self.config.every is not None

    # --- before the run -------------------------------------------------------------------------------------------------------

    def check(self, config: Config, plan: Plan) -> Iterable[Problem]:
        """Refuse unknown tasks, and what cannot be done in this run."""
        return needs.problems(self.config, config, plan)

    def plan(self, config: Config, plan: Plan) -> Iterable[str]:
        """When, on what, by whom, and where the results are."""
        options = self.config
        shots = "" if options.num_fewshot is None else f", {options.num_fewshot}-shot"
        limit = options.limit
        of = "" if limit is None else f", on the first {f'{limit:.0%}' if limit < 1 else limit} rows of each"
        asks = f"{', '.join(options.tasks)}{shots}{of}"
        if options.post_train:
            whose = options.model or f"the trained model in memory{', adapter merged' if options.merged else ''}"
            yield f"when the model is saved, evaluates {whose} on {asks}"
        if options.every:
            yield f"evaluates at the first checkpoint after each {options.every} steps on {asks}"
        if not self._evaluates:
            yield "evaluates nothing in the run; `longline lm-eval` takes its options from here"
            return
        if plan.world_size > 1:
            yield f"{'all ranks share the rows' if options.ranks == 'all' else 'the main rank evaluates, the others wait'}"
        yield f"results: {options.output or plan.output_dir / FOLDER}"

    def doctor(self) -> Iterable[Finding]:
        """Whether the harness is here, which version, and whether its tasks are."""
        yield from (Finding("library", f"untested: {text}", "warning") for text in untested(_tested()))
        faults = list(needs.task_problems(self.config))
        yield from (Finding("tasks", fault.message, "error", fault.hint) for fault in faults)
        if faults:
            return
        from longline_lm_eval.tasks import NETWORK_HINT, load

        try:
            loaded = load(self.config)
        except LonglineError as error:
            yield Finding("tasks", error.message, "error", error.hint)
            return
        for name, why in loaded.skipped.items():
            yield Finding("tasks", f"{name}: {why}", "warning", NETWORK_HINT)
        yield Finding("tasks", f"{', '.join(loaded.tasks)}: their data is here")

    # --- in it ----------------------------------------------------------------------------------------------------------------

    @hookimpl
    def pre_trainer_args(self, run: Run) -> None:
        """Load the tasks, with their data, before anything of the run is."""
        if run.command != "train" or not self._evaluates or (self.config.ranks == "main" and not run.is_main):
            return
        from longline_lm_eval import tasks

        if run.is_main and self.config.output:
            results.require_writable(self.config.output)
        self._loaded = tasks.load(self.config)
        for name, why in self._loaded.skipped.items():
            run.alert("a task is left out", f"lm-eval cannot ask {name}: {why}")
        for name in tasks.tell_shots(self._loaded, self.config):
            run.alert("a task keeps to no examples", f"lm-eval asks {name} without, as its file says", "info")

    @hookimpl
    def post_tokenizer_load(self, run: Run, tokenizer: Any) -> None:
        """Refuse a chat template that is not there."""
        wanted = self.config.apply_chat_template
        if run.command != "train" or not wanted or self.config.model:
            return
        there = tokenizer.chat_template
        if not there or (isinstance(wanted, str) and wanted not in (there if isinstance(there, dict) else ())):
            has = (
                f"it has {', '.join(there)}"
                if isinstance(there, dict)
                else "it has one, without a name"
                if there
                else "it has none"
            )
            hint = (
                "apply_chat_template: true" if there else "set model.tokenizer.chat_template, or leave apply_chat_template out"
            )
            raise LonglineError(f"apply_chat_template: the tokenizer has no template {wanted!r}: {has}", hint=hint)

    @hookimpl
    def on_train_begin(self, run: Run, trainer: Any) -> None:
        """Ask to be called at checkpoints; not before, so that the core has its turn first and a signal is known."""
        if self.config.every is not None:
            from longline_lm_eval.checkpoints import AtCheckpoints

            trainer.add_callback(AtCheckpoints(self, run, trainer))

    @hookimpl
    def on_trained(self, run: Run, trainer: Any) -> None:
        """Evaluate the model that was saved."""
        if self.config.post_train:
            self._evaluate(run, trainer, run.plan.model_dir.name, self.config.model)

    def at_checkpoint(self, run: Run, trainer: Any) -> None:
        """Evaluate if it is the first checkpoint after `every` steps, and was not; a callback's exception would end the run."""
        step, every = trainer.state.global_step, self.config.every or 1
        folder = f"checkpoint-{step}"
        due = step // every > self._last // every and not (self._place(run) / folder / results.FILE).is_file()
        if not self._agreed(run, due):
            return
        self._last = step
        try:
            self._evaluate(run, trainer, folder, None)
        except Interrupted:
            raise
        except Exception as error:
            run.alert("no evaluation", f"lm-eval at {folder}: {type(error).__name__}: {error}", "error")

    @staticmethod
    def _agreed(run: Run, due: bool) -> bool:
        """What the main rank says, which alone knows what was kept in a checkpoint."""
        from longline_lm_eval.ranks import Team

        with Team.of(run, shares=False) as team:
            said: bool = team.exchange("due", due)[0]
        return said

    def state(self) -> dict[str, int] | None:
        """The step of the last evaluation: one that a signal kept from being made is made when the run goes on."""
        return {"last": self._last} if self.config.every else None

    def restore(self, state: Mapping[str, Any]) -> None:
        """Know it again; none was made with a config that had no `every`."""
        self._last = state.get("last", 0)

    def _place(self, run: Run) -> Path:
        return self.config.output or run.output_dir / FOLDER

    def _evaluate(self, run: Run, trainer: Any, folder: str, other: str | None) -> None:
        """Evaluate, on every rank; where the main one does it alone, the others wait."""
        from longline_lm_eval.ranks import OtherRankFailedError, Team

        sharded = trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled
        model, tokenizer = (trainer.model, trainer.processing_class) if other is None else self._other(run, other)
        with Team.of(run, shares=self.config.ranks == "all" and not sharded) as team:
            if self.config.ranks == "all":
                self._ask(run, team, model, tokenizer, folder)
                return
            try:
                if run.is_main:
                    self._ask(run, Team(), model, tokenizer, folder)
                team.exchange("evaluated")
            except OtherRankFailedError:
                return  # it tells what
            except BaseException as error:
                team.fail(str(error))
                raise

    def _ask(self, run: Run, team: Team, model: Any, tokenizer: Any, folder: str) -> None:
        from longline_lm_eval.evaluation import Evaluation

        assert self._loaded is not None  # noqa: S101 - pre_trainer_args loaded them on every rank that comes here
        name = self.config.model or str(run.output_dir / folder)
        made = Evaluation(self.config, self._loaded, team, name, lambda found, task: run.log(results.metrics(found, task)))
        try:
            made.run(model, tokenizer)
        finally:
            self._tell(run, made, folder)

    def _other(self, run: Run, path: str) -> tuple[Any, Any]:
        from transformers import AutoTokenizer

        model = run.load_model(path, role=FOLDER)
        return model, AutoTokenizer.from_pretrained(path, trust_remote_code=run.config.model.trust_remote_code)

    def _tell(self, run: Run, made: Evaluation, folder: str) -> None:
        """Write, print and raise what came of it; what failed is told, and ends a strict run."""
        if run.is_main and made.results:
            rows = results.rows(made.results)
            path = results.write(made.results, made.tracker, self._place(run) / folder)
            click.echo("\n".join([f"lm-eval of {folder}, written to {path}", *(f"  {line}" for line in results.lines(rows))]))
            run.hook.on_table(run=run, table=Table(FOLDER, results.COLUMNS, tuple(rows), run.summary.steps))
        for name, why in made.failed.items():
            run.alert("a task has no result", f"lm-eval on {name}: {why}", "error")
        if made.failed and self.config.strict:
            raise LonglineError(f"no result of {', '.join(made.failed)}", hint="strict: false goes on without")


def _tested() -> dict[str, str]:
    from longline_lm_eval.upstream import TESTED

    return TESTED
