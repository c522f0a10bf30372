"""What a person sees of a run: the plan, one live line while it trains, what it came to.

On a terminal the line moves; elsewhere (a file, CI, a batch job) each log event is a plain line.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console as RichConsole
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from longline import artifacts
from longline.builtin.alerts import Alerts
from longline.hookspecs import hookimpl
from longline.text import one_line, showable

if TYPE_CHECKING:
    from pathlib import Path

    from longline.data import Prepared
    from longline.events import Alert, Role, Status, Summary
    from longline.methods.base import Fact
    from longline.plugins.run import Run

ALERT_STYLES = {"info": "blue", "warning": "yellow", "error": "bold red"}


class Console:
    """Prints on the main rank only."""

    def __init__(self, alerts: Alerts | None = None) -> None:
        self.console = RichConsole(soft_wrap=True, highlight=False)
        self.alerts = alerts or Alerts()
        self.progress: Progress | None = None
        self.task: Any = None
        self.facts: Sequence[Fact] = ()
        """What was printed of the plan when the run began."""
        self.last: dict[str, float] = {}
        self.rate = Rate()
        self.max_steps = 0

    # --- before training --------------------------------------------------------------------------------------------------------

    @hookimpl
    def on_run_start(self, run: Run) -> None:
        """Print every resolved fact and where it came from."""
        if run.is_main:
            self.console.print(f"[bold]longline[/bold] run {run.id}")
            self.facts = run.plan.facts
            self._print_facts(run, self.facts)

    @hookimpl
    def post_model_load(self, run: Run, role: Role) -> None:
        """Print what the plan could not know of the model."""
        if run.is_main and role == "policy" and self.facts:
            named = {fact.name for fact in self.facts}
            self._print_facts(run, [fact for fact in run.plan.facts if fact.name in named and fact not in self.facts])

    def _print_facts(self, run: Run, facts: Sequence[Fact]) -> None:
        name_width = max((len(fact.name) for fact in self.facts), default=0)
        for fact in facts:
            why = f"  [dim]({escape(fact.why)})[/dim]" if fact.why != "config" else ""
            self.console.print(f"  {fact.name:<{name_width}}  {escape(run.mask(fact.value))}{why}")

    @hookimpl
    def post_data_load(self, run: Run, data: Prepared) -> None:
        """Print what was read and what became of it."""
        from longline.data.summary import summary

        if run.is_main:
            for line in summary(data.report, warnings=False):
                self.console.print(escape(run.mask(line)))

    @hookimpl
    def post_trainer_create(self, run: Run, trainer: Any) -> None:
        """Print how much of the model is trained, and for how long."""
        from longline.model import count_parameters

        if run.is_main:
            trainable, total = count_parameters(trainer.model)
            share = f"{100 * trainable / total:.2f} %" if total else "-"
            self.console.print(f"training {trainable:,} of {total:,} weights ({share}), {run.plan.steps} steps")

    # --- while it trains --------------------------------------------------------------------------------------------------------

    @hookimpl
    def on_train_begin(self, run: Run, trainer: Any) -> None:
        """Start the live line."""
        self.max_steps = trainer.state.max_steps
        self.rate = Rate()
        if not run.is_main or not self.console.is_terminal:
            return
        # Fits into 80 columns: what is cut off first would be the time that is left.
        self.progress = Progress(
            TextColumn("{task.completed}/{task.total}"),
            BarColumn(bar_width=8),
            TextColumn("{task.fields[metrics]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(compact=True),
            TextColumn("left"),
            console=self.console,
        )
        self.task = self.progress.add_task("train", total=self.max_steps, completed=trainer.state.global_step, metrics="")
        self.progress.start()

    @hookimpl
    def on_step_end(self, step: int) -> None:
        """Move the line."""
        if self.progress is not None:
            self.progress.update(self.task, completed=step, metrics=self._metrics())

    @hookimpl
    def on_log(self, logs: Mapping[str, float], step: int) -> None:
        """Remember what the live line shows, or print a plain line."""
        self.rate.update(step, logs.get("num_tokens"))
        self.last = {**self.last, **logs}
        if self.progress is None:
            self.console.print(f"step {step}/{self.max_steps}  {_numbers(logs)}{self._pace(step, logs)}")
        elif "eval_loss" in logs:
            self.progress.console.print(f"step {step}: {_numbers(logs)}")

    def _metrics(self) -> str:
        shown = [f"{name} {self.last[key]:{form}}" for key, (name, form) in LIVE.items() if key in self.last]
        return " ".join([*shown, *([f"{self.rate.tokens:,.0f} tok/s"] if self.rate.tokens else [])])

    def _pace(self, step: int, logs: Mapping[str, float]) -> str:
        if "num_tokens" not in logs or not self.rate.tokens:
            return ""
        left = (self.max_steps - step) * self.rate.seconds_per_step
        return f"  {self.rate.tokens:,.0f} tokens/s  {_duration(left)} left"

    @hookimpl
    def on_alert(self, run: Run, alert: Alert) -> None:
        """Print an alert where it is not overwritten."""
        style = ALERT_STYLES[alert.level]
        at = f" (step {alert.step})" if alert.step is not None else ""
        text = f": {escape(run.mask(alert.text))}" if alert.text else ""
        self.console.print(f"[{style}]{alert.level}{at}: {escape(one_line(run.mask(alert.title)))}[/{style}]{text}")

    @hookimpl
    def on_fact(self, run: Run, name: str, value: str, why: str) -> None:
        """Print what a plugin tells of the run, where the plan is printed."""
        if run.command == "train":
            self.console.print(f"  {escape(run.mask(name))}  {escape(run.mask(value))}  [dim]({escape(run.mask(why))})[/dim]")

    @hookimpl
    def on_checkpoint(self, path: Path) -> None:
        """Name the checkpoint."""
        self.console.print(f"saved {escape(showable(str(path)))}")

    @hookimpl
    def on_train_end(self) -> None:
        """End the live line."""
        self._stop_progress()

    @hookimpl
    def on_error(self) -> None:
        """End the live line before the error is printed."""
        self._stop_progress()

    def _stop_progress(self) -> None:
        if self.progress is not None:
            self.progress.stop()
            self.progress = None

    # --- after it ---------------------------------------------------------------------------------------------------------------

    @hookimpl
    def on_run_end(self, run: Run, status: Status, summary: Summary) -> None:
        """Print how it ended, where everything lies, and what the hooks cost."""
        self._stop_progress()
        if not run.is_main:
            return
        loss = summary.metrics.get("train_loss", summary.metrics.get("loss"))
        tail = f", train loss {loss:.4g}" if loss is not None else ""
        evaluated = summary.metrics.get("eval_loss")
        tail += f", eval loss {evaluated:.4g}" if evaluated is not None else ""
        took = f"{summary.steps} steps, {summary.tokens:,} tokens in {_duration(summary.train_seconds)}"
        self.console.print(f"[bold]{status}[/bold]: {took}{tail}")
        if summary.train_seconds:
            self.console.print(run.account.table(summary.train_seconds))
        for level in ("error", "warning"):
            if titles := self.alerts.titles(level):
                style, told = ALERT_STYLES[level], "; ".join(one_line(run.mask(title)) for title in titles)
                self.console.print(f"  [{style}]told above[/{style}]   {level}: {escape(told)}")
        for name, path in artifacts.left_behind(run.plan):
            self.console.print(f"  {name:<12} {escape(showable(str(path)))}")
        if status == "interrupted" and run.can_resume():
            self.console.print("  go on with the same command and --resume")


LIVE = {
    "loss": ("loss", ".3f"),
    "eval_loss": ("eval", ".3f"),
    "rewards/margins": ("margin", ".2f"),
    "margin": ("margin", ".2f"),
    "reward": ("reward", ".2f"),
    "learning_rate": ("lr", ".1e"),
}
"""What the live line shows, under which name and how: as much as fits into 80 columns for each method."""
PLAIN = (
    *("loss", "reward", "reward_std", "rewards/margins", "rewards/accuracies", "margin", "accuracy", "kl"),
    *("completions/mean_length", "learning_rate", "grad_norm", "runtime", "epoch"),
)
"""What plain lines show, in this order, of training, `eval_` and `train_`; all that is logged is in log.jsonl."""


def _numbers(logs: Mapping[str, Any]) -> str:
    names = [f"{prefix}{name}" for name in PLAIN for prefix in ("", "eval_", "train_")]
    return "  ".join(
        f"{name} {logs[name]:.4g}" if isinstance(logs[name], (int, float)) else f"{name} {logs[name]}"
        for name in names
        if name in logs
    )


def _duration(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


class Rate:
    """Tokens and steps a second between the last two log events."""

    def __init__(self) -> None:
        self.time = time.perf_counter()
        self.step = 0
        self.count = 0.0
        self.tokens = 0.0
        self.seconds_per_step = 0.0

    def update(self, step: int, tokens: float | None) -> None:
        """Take in one log event; those without a token count are evaluations and the like."""
        if tokens is None:
            return
        current = time.perf_counter()
        if step > self.step and tokens >= self.count:
            seconds = current - self.time
            self.tokens = (tokens - self.count) / seconds
            self.seconds_per_step = seconds / (step - self.step)
        self.time, self.step, self.count = current, step, tokens
