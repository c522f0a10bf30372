"""What a person sees of a run: the plan, one live line while it trains, what it came to.

On a terminal the line moves; elsewhere (a file, CI, a batch job) each log event is a plain line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any

from rich.console import Console as RichConsole
from rich.live import Live
from rich.markup import escape
from rich.text import Text

from longline import artifacts
from longline.builtin.alerts import Alerts
from longline.builtin.pace import PLAIN_SECONDS, Pace, duration
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
        self.facts: Sequence[Fact] = ()
        """What was printed of the plan when the run began."""
        self.live: Live | None = None
        self.last: dict[str, float] = {}
        self.pace = Pace()
        self.step = self.max_steps = 0
        self.evaluating = ""

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
            trainer.add_callback(_evaluation_watch(self))

    # --- while it trains --------------------------------------------------------------------------------------------------------

    @hookimpl
    def on_train_begin(self, run: Run, trainer: Any) -> None:
        """Start the live line."""
        self.step, self.max_steps = run.summary.from_step, trainer.state.max_steps
        self.pace = Pace(run.summary.from_step, run.summary.from_tokens)
        if run.is_main and self.console.is_terminal:
            self.live = Live(get_renderable=self._line, console=self.console)
            self.live.start()

    @hookimpl
    def on_step_end(self, step: int) -> None:
        """Move the line."""
        self.step = step
        self.pace.stepped(step)

    @hookimpl
    def on_log(self, logs: Mapping[str, float], step: int) -> None:
        """Remember what the live line shows, or print a plain line."""
        self.pace.logged(step, logs.get("num_tokens"))
        self.last = {**self.last, **logs}
        if self.live is None:
            shown = _numbers(logs) + (self._pace(step) if "num_tokens" in logs else "")
            if shown:  # an event of a plugin's own may have nothing that is shown here
                self.console.print(f"step {step}/{self.max_steps}  {shown}")
        elif "eval_loss" in logs:
            self._say(f"step {step}: {_numbers(logs)}")

    def _say(self, text: str) -> None:
        """Print above the live line, which is drawn again below as it is now."""
        if self.live is not None:
            self.live.refresh()
        self.console.print(text)

    def evaluated(self, done: int, total: int | None) -> None:
        """So many batches of an evaluation are done; it may take longer than a hundred steps."""
        if done == 1:
            self._evaluation_begun = self._told = perf_counter()
        self.evaluating = f"evaluating {done}/{total}" if total else f"evaluating {done}"
        now = perf_counter()
        if self.live is None and now - self._told > PLAIN_SECONDS:
            self._told = now
            left = (now - self._evaluation_begun) / (done - 1) * (total - done) if total else None
            tail = "" if left is None else f"  {duration(left)} left"
            self.console.print(f"step {self.step}/{self.max_steps}  {self.evaluating}{tail}")

    @hookimpl
    def on_evaluate(self) -> None:
        """Go on with the steps."""
        self.evaluating = ""
        self.pace.paused()

    def _line(self) -> Text:
        """The live line. What doesn't fit into the width of the terminal is left out whole, the least important first."""
        share = self.step / self.max_steps if self.max_steps else 0.0
        filled = round(BAR * share)
        left = self.pace.left(self.step, self.max_steps)
        parts = [
            (0, f"{self.step}/{self.max_steps}"),
            (1, self.evaluating) if self.evaluating else (9, "━" * filled + "╌" * (BAR - filled)),
            *((rank, f"{name} {self.last[key]:{form}}") for key, (name, form, rank) in LIVE.items() if key in self.last),
            *([(6, f"{self.pace.tokens:,.0f} tok/s")] if self.pace.tokens else []),
            (7, _clock(perf_counter() - self.pace.begun)),
            *([(2, f"{_clock(left)} left")] if left is not None else []),
        ]
        while len(parts) > 1 and sum(len(text) + 1 for _, text in parts) > self.console.width:
            parts.remove(max(parts))
        return Text(" ".join(text for _, text in parts), no_wrap=True, overflow="ellipsis")

    def _pace(self, step: int) -> str:
        left = self.pace.left(step, self.max_steps)
        tokens = f"  {self.pace.tokens:,.0f} tokens/s" if self.pace.tokens else ""
        return tokens if left is None else f"{tokens}  {duration(left)} left"

    @hookimpl
    def on_alert(self, run: Run, alert: Alert) -> None:
        """Print an alert where it is not overwritten."""
        style = ALERT_STYLES[alert.level]
        at = f" (step {alert.step})" if alert.step is not None else ""
        text = f": {escape(run.mask(alert.text))}" if alert.text else ""
        self._say(f"[{style}]{alert.level}{at}: {escape(one_line(run.mask(alert.title)))}[/{style}]{text}")

    @hookimpl
    def on_fact(self, run: Run, name: str, value: str, why: str) -> None:
        """Print what a plugin tells of the run, where the plan is printed."""
        if run.command == "train":
            self.console.print(f"  {escape(run.mask(name))}  {escape(run.mask(value))}  [dim]({escape(run.mask(why))})[/dim]")

    @hookimpl
    def on_checkpoint(self, path: Path) -> None:
        """Name the checkpoint."""
        self.pace.paused()
        self._say(f"saved {escape(showable(str(path)))}")

    @hookimpl
    def on_train_end(self) -> None:
        """End the live line."""
        self._end_line()

    @hookimpl
    def on_error(self) -> None:
        """End the live line before the error is printed."""
        self._end_line()

    def _end_line(self) -> None:
        self.evaluating = ""
        if self.live is not None:
            self.live.stop()
            self.live = None

    # --- after it ---------------------------------------------------------------------------------------------------------------

    @hookimpl
    def on_run_end(self, run: Run, status: Status, summary: Summary) -> None:
        """Print how it ended, where everything lies, and what the hooks cost."""
        self._end_line()
        if not run.is_main:
            return
        loss = summary.metrics.get("train_loss", summary.metrics.get("loss"))
        tail = f", train loss {loss:.4g}" if loss is not None else ""
        evaluated = summary.metrics.get("eval_loss")
        tail += f", eval loss {evaluated:.4g}" if evaluated is not None else ""
        self.console.print(f"[bold]{status}[/bold]: {_took(summary)}{tail}")
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


BAR = 8
"""How wide the bar is."""
LIVE = {
    "loss": ("loss", ".3f", 3),
    "eval_loss": ("eval", ".3f", 5),
    "rewards/margins": ("margin", ".2f", 4),
    "margin": ("margin", ".2f", 4),
    "reward": ("reward", ".2f", 4),
    "learning_rate": ("lr", ".1e", 8),
}
"""What the live line shows, under which name and how, and how soon it is left out: the highest number first."""
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


def _clock(seconds: float) -> str:
    """Seconds as a clock shows them: a line that moves shall not change its width."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}"


def _took(summary: Summary) -> str:
    """How much was trained in what time; of a resumed run, the time is that of its last part."""
    steps, tokens = summary.steps - summary.from_step, summary.tokens - summary.from_tokens
    whole = f"{summary.steps} steps, {summary.tokens:,} tokens"
    if not summary.from_step:
        return f"{whole} in {duration(summary.train_seconds)}"
    return f"{whole}; of these {steps} steps, {tokens:,} tokens in {duration(summary.train_seconds)} since the resume"


def _evaluation_watch(console: Console) -> Any:
    """A callback of the trainer: no hook tells of the batches of an evaluation."""
    from transformers import TrainerCallback

    class EvaluationWatch(TrainerCallback):
        done = 0

        def on_prediction_step(self, args: Any, state: Any, control: Any, eval_dataloader: Any = None, **kwargs: Any) -> None:
            self.done += 1
            console.evaluated(self.done, len(eval_dataloader) if hasattr(eval_dataloader, "__len__") else None)

        def on_evaluate(self, *args: Any, **kwargs: Any) -> None:
            self.done = 0

    return EvaluationWatch()
