"""The nearest valid name to a misspelled one."""

from __future__ import annotations

from difflib import SequenceMatcher, get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Return the known name that `word` is most likely meant to be, or None when nothing is near; case and - or _ don't count."""
    names = {name.lower().replace("-", "_"): name for name in known}
    plain = word.lower().replace("-", "_")
    longer = [name for name in names if len(plain) > 2 and name.startswith(plain)]  # adam: adamw_torch, not adalomo
    found = _closest(plain, names, 0.8) or next(iter(longer), None) or _closest(plain, names, 0.6)
    return names[found] if found else None


def _closest(word: str, names: Iterable[str], cutoff: float) -> str | None:
    """The most similar name; among equals the first."""
    close = get_close_matches(word, names, n=3, cutoff=cutoff)
    ratios = {name: SequenceMatcher(None, name, word).ratio() for name in names if name in close}
    return max(ratios, key=lambda name: ratios[name], default=None)


def did_you_mean(word: str, known: Iterable[str], otherwise: str = "") -> str:
    """Return `did you mean 'x'?` to put into a message, or `otherwise` when nothing is near."""
    found = nearest(word, known)
    return f"did you mean {found!r}?" if found else otherwise
