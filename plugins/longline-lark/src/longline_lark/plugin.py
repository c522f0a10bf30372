"""The plugin: what a run tells becomes cards, and a background thread delivers them."""

from __future__ import annotations

import logging
import os
from time import monotonic
from typing import TYPE_CHECKING, Any

from longline import Alert, Finding, Plugin, hookimpl
from longline.plugins.network import reachable
from longline_lark import credentials, rules
from longline_lark.config import LarkConfig
from longline_lark.throttle import Throttle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from longline import Config, Plan, Problem, Run, Summary
    from longline.events import Status
    from longline_lark.cards import Card
    from longline_lark.credentials import Credentials
    from longline_lark.messages import Told, Writer
    from longline_lark.rules import Rule
    from longline_lark.sender import Sender

logger = logging.getLogger("longline_lark")


class LarkPlugin(Plugin):
    """Tells a group when training starts, how it ends, and what needs a look; only the main rank talks."""

    Config = LarkConfig
    config: LarkConfig

    def __init__(self, config: LarkConfig) -> None:
        super().__init__(config)
        self._found: Credentials | None = None
        self._sender: Sender | None = None
        self.rules: list[Rule] = []
        self._begin()

    def check(self, config: Config, plan: Plan) -> Iterable[Problem]:
        """Refuse a run without a webhook, or with one that messages may not go to."""
        credentials.find(self.config, os.environ)
        return ()

    def plan(self, config: Config, plan: Plan) -> Iterable[str]:
        """What is told to the group."""
        yield f"sends messages on {', '.join(self.config.events)}"
        if self.config.rules:
            yield f"raises an alert on {'; '.join(self.config.rules)}"

    def doctor(self) -> Iterable[Finding]:
        """Whether the webhook's host can be reached; nothing is sent, `longline lark test` does that."""
        yield reachable("webhook", self.credentials.url.get_secret_value())

    @property
    def credentials(self) -> Credentials:
        """The webhook and its secret; raises LonglineError when there is none."""
        if self._found is None:
            self._found = credentials.find(self.config, os.environ)
        return self._found

    def _begin(self) -> None:
        """Forget everything of an earlier run."""
        self.throttle = Throttle()
        self.began: float | None = None
        self.error: Told | None = None
        self.seen: set[str] = set()
        self._writer: Writer | None = None

    def state(self) -> Mapping[str, Any] | None:
        """What the rules have counted: one that waits for 100 logs shall not wait anew after a resume."""
        return {rule.text: {name: getattr(rule, name) for name in rule.counted} for rule in self.rules} or None

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on counting, where a rule is still there."""
        for rule in self.rules:
            for name, value in state.get(rule.text, {}).items():
                setattr(rule, name, value)

    # --- the run ----------------------------------------------------------------------------------------------------------------

    @hookimpl
    def on_run_start(self, run: Run) -> None:
        """Note the time, and say what is missing for safe messages."""
        if not run.is_main:
            return
        self._begin()
        self.rules = [rules.parse(text) for text in self.config.rules]
        self.began = monotonic()
        for secret in self.credentials.values():
            run.hide(secret)
        if self.credentials.secret is None:
            logger.warning("lark: %s", credentials.UNSIGNED)

    @hookimpl
    def on_train_begin(self, run: Run, trainer: Any) -> None:
        """Tell that training starts, or goes on after a resume."""
        if run.is_main:
            step, steps = trainer.state.global_step, trainer.state.max_steps
            self._tell("start", run, lambda writer: writer.start(run, step, steps))

    @hookimpl
    def on_log(self, run: Run, logs: Mapping[str, float], step: int) -> None:
        """Ask every rule; what it finds is an alert for everybody, so also for us."""
        self.seen.update(logs)
        for rule in self.rules:
            finding = rule.see(logs)
            if finding:
                text = finding.said(self._write(run).words)
                run.hook.on_alert(run=run, alert=Alert(rule.text, text, step=step))

    @hookimpl
    def on_alert(self, run: Run, alert: Alert) -> None:
        """Pass an alert on; of many with the same title one a minute. Evaluating or generating is nothing to tell a group of."""
        if run.command != "train":
            return
        repeats = self.throttle.take(alert.title, monotonic())
        if repeats is not None:
            self._tell("alert", run, lambda writer: writer.alert(alert, repeats))

    @hookimpl
    def on_error(self, run: Run, error: BaseException) -> None:
        """Keep the last lines of what stopped the run for the message at its end."""
        from longline_lark.messages import Told

        if run.is_main:
            self.error = Told.of(error, run.phase)

    @hookimpl
    def on_run_end(self, run: Run, status: Status, summary: Summary) -> None:
        """Tell how the run ended, and wait until everything is out, at most `timeout` seconds."""
        if not run.is_main:
            return
        kind = "complete" if status == "completed" else status
        seconds = monotonic() - self.began if self.began is not None else None
        lost = self._sender.lost if self._sender else 0
        error = self.error
        self._tell(kind, run, lambda writer: writer.end(kind, summary, seconds, lost, error), last=True)
        self._close()
        self._name_idle_rules()

    # --- sending ----------------------------------------------------------------------------------------------------------------

    def _write(self, run: Run) -> Writer:
        from longline_lark.messages import Writer

        if self._writer is None:
            self._writer = Writer.of(run, self.config, lambda text: self.credentials.mask(run.mask(text)))
        return self._writer

    def _tell(self, event: str, run: Run, card: Callable[[Writer], Card], *, last: bool = False) -> None:
        """Queue a card if its event is wanted; it is made in the thread, so that a step doesn't wait for it."""
        if event not in self.config.events:
            return
        writer = self._write(run)
        if self._sender is None:
            from longline_lark.sender import Sender
            from longline_lark.webhook import Webhook

            self._sender = Sender(Webhook(self.credentials), self.config.timeout)
        self._sender.put(lambda: card(writer).payload(), last=last)

    def _close(self) -> None:
        if self._sender is None:
            return
        delivery = self._sender.close()
        self._sender = None
        if delivery.lost:
            sent = f"{delivery.lost} of {delivery.lost + delivery.delivered} messages were not delivered"
            logger.warning("lark: %s%s", sent, f": {delivery.reason}" if delivery.reason else "")

    def _name_idle_rules(self) -> None:
        """A rule whose metric never came is most likely misspelled, and silence would look like all is well."""
        idle = [rule for rule in self.rules if rule.metric and rule.metric not in self.seen]
        if idle and self.seen:
            named, there = ", ".join(f"{rule.text!r}" for rule in idle), ", ".join(sorted(self.seen))
            logger.warning("lark: no log event held the metric of these rules: %s; there were %s", named, there)
