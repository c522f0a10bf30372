"""What is to be said of data once all of it is read: refused, or warned about in the report."""

from __future__ import annotations

from typing import TYPE_CHECKING

from longline.data.report import on_a_screen
from longline.data.template import REASONING
from longline.errors import DataError

if TYPE_CHECKING:
    from longline.config.sections import DataSection
    from longline.data.kinds import Kind
    from longline.data.notes import Notice
    from longline.data.report import DataReport, SourceReport

LOST_SHARE = 0.05
"""More lost tokens of a source than this share are warned about."""
TELLING: dict[str, str] = {
    **dict.fromkeys((*REASONING, "thought", "thoughts", "cot", "rationale"), "reasoning"),
    **dict.fromkeys(("system", "system_prompt"), "system"),
    **dict.fromkeys(("tools", "functions"), "tools"),
}
"""Columns that should reach the text, with the word of `data.allow_dropped` for them; others are told without a warning."""
REMEDIES = {
    "reasoning": "put it into the answers, or beside them as reasoning_content, if it should be learnt",
    "system": "`columns: {{system: {0}}}` names it where the format takes one",
    "tools": "`columns: {{tools: {0}}}` names it where the format takes them",
}
_LOSSES = ("rows", "bad", "dropped", "untrained", "identical", "truncated")


def judge(section: DataSection, kind: Kind, report: DataReport) -> None:
    """Add warnings to the report. Raises DataError for bad rows that stop, and for a set that can't be trained on."""
    _refuse_bad_rows(section, report)
    for split in ("train", "eval"):
        if own := [source for source in report.sources if source.split == split]:
            _refuse_empty(split, own, kind)
    for source in report.sources:
        _judge_source(source, kind, report)
        report.warnings += [
            f"{source.name}: nobody reads the column {name!r} ({value}); {REMEDIES[TELLING[name]].format(name)}"
            for name, value in source.unread.items()
            if name in TELLING and TELLING[name] not in section.allow_dropped
        ]
    report.warnings.extend(kind.warnings(report))


def _refuse_bad_rows(section: DataSection, report: DataReport) -> None:
    if not report.bad:
        return
    kept = {source.split for source in report.sources if source.kept}
    failed = [source for source in report.sources if 1 < source.bad == source.rows and source.alike]
    whole = next((source for source in failed if section.on_bad_row == "stop" or source.split not in kept), None)
    if whole is not None:
        first = whole.bad_rows[0]
        raise DataError(
            f"{whole.name}: none of its {whole.rows} rows can be used, all for one reason, the first at {first.where}:\n"
            f"  {first.reason}",
            hint=first.hint or f"they were read as {whole.format}: look at `columns:` and `format:` of this source",
        )
    if section.on_bad_row == "stop":
        rows = [str(row) for source in report.sources for row in source.bad_rows]
        plural = "row" if report.bad == 1 else "rows"
        raise DataError(
            f"{report.bad} {plural} can't be used:{on_a_screen(rows, report.bad)}",
            hint="repair them, or leave them out with data.on_bad_row: skip",
        )
    report.warnings.append(f"{report.bad} rows could not be used and were left out")


def _refuse_empty(split: str, own: list[SourceReport], kind: Kind) -> None:
    """A set of which nothing is learnt is a mistake."""
    if sum(source.trained_tokens if kind.learns else source.kept for source in own):
        return
    counts = {name: sum(getattr(source, name) for source in own) for name in _LOSSES}
    what = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    if not kind.learns:
        raise DataError(f"no {kind.name} of the {split} data is left ({what})", hint="look at data.max_length")
    raise DataError(f"nothing of the {split} data is learnt ({what})", hint="look at data.train_on and data.max_length")


def _judge_source(source: SourceReport, kind: Kind, report: DataReport) -> None:
    """A source in which no answer ever ends is a mistake; other oddities are warned about."""
    if source.ends_turns and source.split == "train" and source.kept and not source.terminators:
        raise DataError(
            f"{source.name}: no answer's end-of-turn token is learnt, so the model would never learn to stop "
            f"({source.truncated_kept} of {source.kept} rows truncated)",
            hint="raise data.max_length"
            if source.truncated_kept == source.kept
            else "name the token that ends answers in data.end_of_turn: one that the chat template writes there, or one "
            "to put behind the last answer",
        )
    if source.straddling:
        report.warnings.append(
            f"{source.name}: in {source.straddling} rows a token joins the end of what is masked with the start of what is "
            f"learnt, and is {kind.straddling}; where a space is between them, put it at the start of what is learnt"
        )
    if source.untrained:
        where = ", ".join(source.untrained_rows[:3]) + (" ..." if source.untrained > 3 else "")
        report.warnings.append(f"{source.name}: {source.untrained} rows have nothing to learn and were left out ({where})")
    if source.identical:
        where = ", ".join(source.identical_rows[:3]) + (" ..." if source.identical > 3 else "")
        report.warnings.append(
            f"{source.name}: in {source.identical} pairs chosen and rejected are the same within max_length; "
            f"they were left out ({where})"
        )
    report.warnings += [f"{source.name}: {told(text, notice)}" for text, notice in source.notices.items() if notice.warns]
    if source.lost_share > LOST_SHARE:
        remedy = "raise data.max_length" + (", or set data.too_long: split" if kind.packs else "")
        report.warnings.append(
            f"{source.name}: {source.lost} of {source.lost + source.tokens} tokens ({source.lost_share:.0%}) are behind "
            f"max_length and are lost ({source.truncated} rows cut, {source.dropped} left out): {remedy}"
        )
    report.warnings.extend(kind.source_warnings(source))


def told(text: str, notice: Notice) -> str:
    """A notice for people."""
    example = f": {notice.example}" if notice.example else ""
    return f"in {notice.rows} {'row' if notice.rows == 1 else 'rows'} {text} ({notice.where}{example})"
