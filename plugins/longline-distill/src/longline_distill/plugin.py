"""The plugin: who teaches, the loss towards it, and what is told of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from longline import Column, Finding, LonglineError, Plugin, Problem, hookimpl
from longline_distill.config import DistillConfig, recorded
from longline_distill.method import DISTILL

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from longline import Config, Plan, Run
    from longline_distill.applied import Applied
    from longline_distill.server import ServerTeacher


class DistillPlugin(Plugin):
    """Answers `provide_loss` for `method: distill`."""

    Config = DistillConfig
    config: DistillConfig

    def __init__(self, config: DistillConfig) -> None:
        super().__init__(config)
        self._applied: Applied | None = None
        self._tokenizer: Any = None
        self._server: list[ServerTeacher] = []

    @property
    def claims(self) -> frozenset[str]:
        """The loss, and the collator where answers come beside the rows."""
        return frozenset({"loss", "collator"} if self._aligns or self.config.server else {"loss"})

    @property
    def columns(self) -> tuple[Column, ...]:
        """The teacher's answers in the data: as recorded for each token, or as a server gave them for each row."""
        own = self.config
        if own.column is None:
            return ()
        if own.layout != "recorded":
            return (Column(own.column, dtype="json"),)
        ids, logs = recorded(own.column)
        return Column(ids, "token", "int32", own.k, fill=-1), Column(logs, "token", "float16", own.k)

    @property
    def _aligns(self) -> bool:
        """Whether answers have to be found in the tokens of each row."""
        return self.config.column is not None and self.config.layout != "recorded"

    def check(self, config: Config, plan: Plan) -> Iterable[Problem]:
        """Refuse another method, whose loss knows no teacher, and recordings that were made otherwise."""
        if config.method != DISTILL.name:
            yield Problem(f"the method is {config.method}, whose loss knows no teacher", path="method", hint="method: distill")
        if self.config.on_policy is not None:
            yield from self._not_drawn(config, plan)
        if self.config.layout == "recorded":
            from longline_distill.recordings import problems

            yield from problems(config, self.config)

    def _not_drawn(self, config: Config, plan: Plan) -> Iterable[Problem]:
        """Where answers cannot be drawn in the middle of training."""
        hint = "remove it, or on_policy of plugins.distill"
        if config.data.packing:
            yield Problem("on_policy answers each row's prompt, and packed rows have several", path="data.packing", hint=hint)
        if plan.trainer_args.get("fsdp"):
            yield Problem("on_policy draws answers from a whole model, and fsdp shards it", path="trainer.fsdp", hint=hint)

    def plan(self, config: Config, plan: Plan) -> Iterable[str]:
        """Who teaches, and what the loss is."""
        own = self.config
        if own.teacher is not None:
            who = f"{own.teacher.path}, in this process"
        else:
            who = (
                f"the server {own.server.url}"
                if own.server is not None
                else f"the column {own.column} of the data ({own.layout})"
            )
        what = f"the {own.k} likeliest tokens, all others as one" if own.k else "the whole distribution"
        yield f"the teacher is {who}: {what}"
        named = own.divergence if own.divergence != "jsd" else f"jsd with beta {own.beta:g}"
        if own.on_policy is not None:
            drawn = f"{own.on_policy.share:.0%} of batches are answered by the student itself"
            yield f"{drawn}, up to {own.on_policy.max_new_tokens} tokens; there the divergence alone is learnt"
        yield f"loss: {1 - own.alpha:g} cross entropy + {own.alpha:g} {named} at temperature {own.temperature:g}"

    @hookimpl
    def post_tokenizer_load(self, run: Run, tokenizer: Any) -> None:
        """See that there is a teacher with the student's vocabulary, before anything large is loaded."""
        self._tokenizer = tokenizer
        if run.command != "train":
            return
        if self.config.teacher is not None:
            from longline_distill.local import refuse_other_vocabulary

            refuse_other_vocabulary(run, self.config.teacher.path, tokenizer)
        elif self.config.server is not None:
            from longline_distill.server import ServerTeacher

            self._server.append(ServerTeacher(self.config.server, self.config.k or 1))
            run.fact("teacher", self._server[0].model, f"at {self.config.server.url}")

    @hookimpl
    def provide_dataset(self, dataset: Any) -> Any:
        """Put the teacher's answers beside the tokens that they are about."""
        if not self._aligns:
            return None
        from longline_distill.aligned import Aligner

        own = self.config
        return Aligner(str(own.column), own.layout, own.k or 1, self._tokenizer).split(dataset)

    @hookimpl
    def post_data_load(self, run: Run, data: Any) -> None:
        """Refuse, or count, samples whose answers are about other tokens."""
        if self._aligns:
            from longline_distill.aligned import tell_faults

            tell_faults(run, data, skip=self.config.on_misaligned == "skip")

    @hookimpl
    def provide_collator(self, run: Run, tokenizer: Any) -> Any:
        """The core's collator, and the teacher's answers, or word to the server of what will be asked."""
        if not self._aligns and not self._server:
            return None
        inner = run.default("provide_collator")(tokenizer=tokenizer)
        if self._server:
            from longline_distill.server import Prefetching

            return Prefetching(inner, self._server)
        from longline_distill.columns import Collator

        return Collator(inner, self.config.k or 1)

    @hookimpl
    def provide_loss(self, run: Run, model: Any) -> Any:
        """Answer with the loss towards the teacher."""
        from longline_distill.applied import Applied

        self._applied = Applied(model, self.config)
        return self._applied

    @hookimpl
    def post_trainer_create(self, run: Run, trainer: Any) -> None:
        """Get the teacher ready."""
        applied = self._applied
        if applied is None or trainer.loss_function is not applied:
            raise LonglineError("not applied: another plugin provides the loss", hint="remove the other one")
        applied.begin(run, trainer, self._tokenizer, self._server)

    @hookimpl
    def pre_log(self, run: Run, logs: dict[str, float]) -> None:
        """Add cross entropy, divergence and agreement to a log event of the training or of an evaluation."""
        if self._applied is not None:
            self._applied.report(logs)

    def state(self) -> Mapping[str, Any] | None:
        """Which teacher the server had."""
        return self._server[0].state() if self._server else None

    def restore(self, state: Mapping[str, Any]) -> None:
        """Refuse to go on with another teacher."""
        if self._server:
            self._server[0].same_as(state)

    def doctor(self) -> Iterable[Finding]:
        """Whether the server answers, and has the model."""
        if self.config.server is None:
            return
        from longline_distill.client import Client, ServerError

        brief = self.config.server.model_copy(update={"retries": 0, "timeout": min(5.0, self.config.server.timeout)})
        try:
            yield Finding("teacher", f"{brief.url} has {Client(brief, 1).model()}")
        except ServerError as error:
            yield Finding("teacher", error.message, "error", error.hint)

    @hookimpl
    def on_run_end(self) -> None:
        """Leave the model as it was, and the server alone."""
        if self._applied is not None:
            self._applied.end()
            self._applied = None
        for teacher in self._server:
            teacher.end()
        self._server.clear()
