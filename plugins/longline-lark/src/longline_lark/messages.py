"""What a run has to tell, as cards: the facts of its start and end, alerts, the last lines of an error."""

from __future__ import annotations

import platform
import re
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from longline import LonglineError
from longline_lark.cards import Card
from longline_lark.words import Words, number

if TYPE_CHECKING:
    from longline import Alert, Run, Summary
    from longline_lark.cards import Kind
    from longline_lark.config import LarkConfig

ERROR_LINES = 12
LONG_ERROR = 1000
"""Characters of an error above which a card may cut it."""
MAX_METRICS = 8
_SPEED = re.compile(r"_(?:runtime|per_second|model_preparation_time)$|\bTime taken\b|\bmfu")
_DULL = {"epoch", "num_tokens", "learning_rate", "grad_norm", "total_flos", "num_input_tokens_seen"}
FIRST_METRICS = ("train_loss", "loss", "eval_loss")


@dataclass(frozen=True, slots=True)
class Writer:
    """Makes the cards of one run; `mask` takes secrets out of every text."""

    config: LarkConfig
    words: Words
    name: str
    run_id: str
    project: str | None
    mask: Callable[[str], str]

    @classmethod
    def of(cls, run: Run, config: LarkConfig, mask: Callable[[str], str]) -> Writer:
        """Take what every card of a run shows from the run."""
        project = config.project or project_of(run.config.plugins)
        return cls(config, Words(config.language), run.output_dir.name, run.id, project, mask)

    def start(self, run: Run, step: int, steps: int) -> Card:
        """Training begins at `step` of `steps`; a step above 0 is a resumed run."""
        words = self.words
        facts = [
            ("method", run.config.method),
            ("model", run.config.model.path),
            ("steps", words.say("resumed", {"step": step, "steps": steps}) if step else number(steps)),
            ("rows", number(run.plan.rows) if run.plan.rows else ""),
        ]
        return self._card("start", "start", facts)

    def end(self, kind: Kind, summary: Summary, seconds: float | None, unsent: int, error: Told | None) -> Card:
        """The run is over; `seconds` is how long it took, `unsent` how many messages nobody took, `error` what ended it."""
        words = self.words
        facts = [
            ("phase", error.phase if error else ""),
            ("reason", error.reason if error else ""),
            ("duration", words.duration(seconds) if seconds is not None else ""),
            ("steps", number(summary.steps) if summary.steps else ""),
            ("epochs", f"{summary.epochs:.2f}" if summary.epochs else ""),
            ("tokens", number(summary.tokens) if summary.tokens else ""),
            *((name, number(value)) for name, value in key_metrics(summary.metrics)),
            ("unsent", words.say("unsent_value", {"count": unsent}) if unsent else ""),
        ]
        return self._card(kind, kind, facts, text=error.text if error else "")

    def alert(self, alert: Alert, repeats: int = 0) -> Card:
        """Somebody raised an alert; `repeats` more with this title were held back since the last one."""
        words = self.words
        facts = [("level", words[alert.level]), ("step", number(alert.step) if alert.step is not None else "")]
        text = "\n".join([alert.text, *([words.say("repeats", {"count": repeats})] if repeats else [])])
        return self._card(alert.level, "alert", facts, title=alert.title, text=text)

    def _card(
        self, kind: Kind, status: str, facts: Iterable[tuple[str, str]], *, title: str | None = None, text: str = ""
    ) -> Card:
        words, mask = self.words, self.mask
        known = words.keys()
        said = [("run", self.name), ("project", self.project or ""), ("status", words[status])]
        shown = [(words[name] if name in known else mask(name), mask(value)) for name, value in [*said, *facts] if value]
        return Card(
            kind=kind,
            title=mask(f"{self.name}: {title or words[status]}"),
            facts=tuple(shown),
            text=mask(text),
            footer=mask(f"Longline {self.run_id}, {platform.node()}"),
            link=mask(fill(self.config.link, self.run_id, self.name)) if self.config.link else None,
            link_label=words["open"],
        )


def test_card(config: LarkConfig, mask: Callable[[str], str]) -> Card:
    """Make the card that `longline lark test` sends."""
    words = Words(config.language)
    facts = [(words["project"], mask(config.project))] if config.project else []
    title = f"Longline: {words['test']}"
    return Card("test", title, tuple(facts), words["test_text"], footer=mask(f"Longline, {platform.node()}"))


@dataclass(frozen=True, slots=True)
class Told:
    """An error as a card tells it: its last lines, what the run was doing, and where those lines are many its `reason` in one."""

    text: str
    phase: str
    reason: str = ""

    @classmethod
    def of(cls, error: BaseException, phase: str) -> Told:
        """Take Longline's own errors as they are printed, and the end of the traceback of all others."""
        own = isinstance(error, LonglineError)
        text = str(error) if own else "".join(traceback.format_exception(error))
        reason = str(error) if own else "".join(traceback.format_exception_only(error))
        first = reason.lstrip().split("\n")[0]
        kept = "\n".join(text.rstrip().split("\n")[-ERROR_LINES:])
        return cls(kept, phase, first if first not in kept or len(kept) > LONG_ERROR else "")


def key_metrics(metrics: Mapping[str, Any]) -> list[tuple[str, float]]:
    """Return what a person asks for first: losses, then what was evaluated, then the rest; no speeds, at most MAX_METRICS."""
    known = {
        name: value
        for name, value in metrics.items()
        if isinstance(value, (int, float)) and name not in _DULL and not _SPEED.search(name)
    }
    first = [name for name in FIRST_METRICS if name in known]
    evaluated = [name for name in known if name.startswith("eval_") and name not in first]
    names = list(dict.fromkeys([*first, *evaluated, *known]))
    return [(name, float(known[name])) for name in names[:MAX_METRICS]]


def project_of(plugins: Iterable[Any]) -> str | None:
    """Return the `project` that another plugin of the config has, so that it needn't be written twice."""
    named = (entry.options.get("project") for entry in plugins if entry.name != "lark")
    return next((project for project in named if isinstance(project, str) and project), None)


def fill(link: str, run_id: str, name: str) -> str:
    """Return the link with its two places filled in, escaped as parts of a url."""
    from urllib.parse import quote

    return link.replace("{run}", quote(run_id, safe="")).replace("{name}", quote(name, safe=""))
