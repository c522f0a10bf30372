"""The account of prepared data as lines of text, the same for preview, preprocess and the start of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from longline.data.keeping import described
from longline.data.verdicts import told

if TYPE_CHECKING:
    from longline.data.report import DataReport, SourceReport, SplitReport


def summary(report: DataReport, *, warnings: bool = True) -> list[str]:
    """Describe every source, every split, bad rows, warnings (a run raises them as alerts instead) and the cache."""
    lines = []
    for source in report.sources:
        lines.extend(_source(source, report))
    lines.append(_split("train", report.train, report))
    if report.eval is not None:
        lines.append(_split("eval", report.eval, report))
    lines.extend(f"kept {column['name']}: {described(column)}" for column in report.columns)
    lines.extend(f"warning: {text}" for text in report.warnings if warnings)
    where = (
        "not kept" if report.cache_path is None else f"{'taken from' if report.cache_hit else 'kept in'} {report.cache_path}"
    )
    lines.append(f"prepared in {report.seconds:.2f} s, {where}")
    return lines


def _source(source: SourceReport, report: DataReport) -> list[str]:
    """Show what came of one source, then its bad rows."""
    how = f"{source.format}{' (guessed)' if source.guessed else ''}{', ' + source.note if source.note else ''}"
    weight = f", weight {source.weight:g}" if source.weight != 1 else ""
    facts = [f"{source.rows} rows"]
    counts = {"bad": source.bad, "too long, dropped": source.dropped, "truncated": source.truncated}
    counts["without anything to learn, left out"] = source.untrained
    counts["with answers that are the same within max_length, left out"] = source.identical
    if source.pieces > source.kept:
        counts[f"split, in {source.pieces} pieces in all"] = source.split_rows
    counts["pieces without anything to learn, left out"] = source.idle
    facts += [f"{count} {what}" for what, count in counts.items() if count]
    detail = f" ({source.detail})" if source.detail else ""
    facts.append(f"{source.kept} {report.unit} kept{detail}: ".replace("  ", " ") + _tokens(source, report))
    facts.append(f"{source.lost} lost" + (f" ({source.lost_share:.1%}) behind max_length" if source.lost else ""))
    lines = [f"{source.split} {source.name}: {how}{weight}", "  " + ", ".join(facts)]
    lines += [f"  {told(text, notice)}" for text, notice in source.notices.items() if not notice.warns]
    if source.unread:
        lines.append("  columns that nobody reads: " + ", ".join(f"{name} ({value})" for name, value in source.unread.items()))
    lines += [f"  bad: {row}" for row in source.bad_rows]
    if source.bad > len(source.bad_rows):
        lines.append(f"  bad: and {source.bad - len(source.bad_rows)} more")
    return lines


def _tokens(counts: SourceReport | SplitReport, report: DataReport) -> str:
    """How many tokens there are, and how many of them are learnt where any can be."""
    if not report.learns:
        return f"{counts.tokens} tokens"
    share = counts.trained_tokens / counts.tokens if counts.tokens else 0.0
    return f"{counts.tokens} tokens, {counts.trained_tokens} trained ({share:.1%})"


def _split(name: str, split: SplitReport, report: DataReport) -> str:
    of = f" of {split.documents} rows" if split.documents != split.samples else ""
    text = f"{name}: {split.samples} {report.unit or 'samples'}{of}, {_tokens(split, report)}"
    text += f", longest {split.longest} of {report.max_length}"
    if split.efficiency is not None:
        text += f", in {split.packs} packs, {split.efficiency:.1%} full"
    return text
