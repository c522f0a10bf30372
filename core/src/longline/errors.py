"""The errors that Longline raises on purpose, each with the exit status that the command line gives it.

Everything a person can cause or repair derives from `LonglineError`; any other exception is a bug of ours, or of a library,
and is reported as such.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher, get_close_matches

EXIT_DONE = 0
EXIT_TRAINING = 1
EXIT_CONFIG = 2
EXIT_PLUGIN = 3
EXIT_SIGHUP = 129
EXIT_SIGINT = 130
EXIT_SIGTERM = 143


class LonglineError(Exception):
    """What happened and where, with an optional `hint` that says what to do next."""

    exit_code = EXIT_TRAINING

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  hint: {self.hint}" if self.hint else self.message


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong in a config: `where` is `file:line:column` (or `--set KEY`), `path` the dotted key."""

    message: str
    path: str = ""
    where: str = ""
    hint: str | None = None

    def __str__(self) -> str:
        path = "" if self.where == f"--set {self.path}" else self.path
        head = " ".join(f"{part}:" for part in (self.where, path) if part)
        text = f"{head} {self.message}" if head else self.message
        return f"{text} ({self.hint})" if self.hint else text


class ConfigError(LonglineError):
    """The config, an override or the command line asks for something that cannot be; carries every problem at once.

    Each line names file, line and column, the key, and the nearest valid name. `longline check` shows them in under a second;
    `longline schema` lets an editor show them while you type.
    """

    exit_code = EXIT_CONFIG

    def __init__(self, problems: str | Sequence[Problem], *, hint: str | None = None) -> None:
        self.problems = [Problem(problems)] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems), hint=hint)


class DataError(LonglineError):
    """A data set cannot be read or cannot be trained on; the message names file and line.

    Repair the rows that are named, or leave them out with `data.on_bad_row: skip`. `longline preview` shows what is read of a row
    and what is learnt of it.
    """

    exit_code = EXIT_CONFIG


class ModelError(LonglineError):
    """A model, tokenizer or adapter cannot be loaded, changed as asked, or saved.

    The hint tells a path that is wrong from a hub that was not reached, terms that were not accepted and a library that is not
    installed. `longline doctor CONFIG` looks at the machine and at what the config needs of it.
    """

    exit_code = EXIT_CONFIG


class TrainingError(LonglineError):
    """Training began and could not go on.

    Checkpoints that were saved before are whole: `longline train CONFIG --resume` goes on from the last one, once the cause that is
    named is gone: a loss that is not finite, a full disk, a process that was lost.
    """

    exit_code = EXIT_TRAINING


class PluginError(LonglineError):
    """A plugin cannot be found, loaded, configured, or raised in a shape or provide hook.

    `longline plugins` lists what is installed, `longline plugins show NAME` its options. A plugin that is not needed is left out of
    `plugins:`; a traceback for its author comes with `--debug`.
    """

    exit_code = EXIT_PLUGIN


class AuthorWarning(UserWarning):
    """Something for the author of a plugin: pytest shows it, the command line does not."""


class Interrupted(LonglineError):  # noqa: N818 - the field's word for it
    """A signal asked the run to stop; `signum` says which one.

    While it trained, a checkpoint was saved first: `longline train CONFIG --resume` goes on.
    """

    def __init__(self, signum: int, message: str) -> None:
        super().__init__(message)
        self.signum = signum
        self.exit_code = 128 + signum


# --- the nearest valid name to a misspelled one -----------------------------------------------------------------------------------


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


# --- what to do about an error of a library ---------------------------------------------------------------------------------------


def remedy_of(error: BaseException, of: str) -> str | None:
    """What to do about an error from the hub, a library or the machine, by its classes and their causes; None for any other.

    `of` stands before the names of keys: `model.`, `this source's `. A hint that does not fit is worse than none.
    """
    from huggingface_hub import errors as hub

    found = [type(cause) for cause in causes(error)]

    def has(*classes: type[BaseException]) -> bool:
        return any(issubclass(one, classes) for one in found)

    if has(hub.GatedRepoError):
        return "accept its terms on the hub, then log in with `hf auth login` or set HF_TOKEN"
    if has(hub.RevisionNotFoundError):
        return f"check {of}revision"
    if has(hub.RepositoryNotFoundError):
        return f"check {of}path; one that is private needs a login: `hf auth login` or HF_TOKEN"
    if has(hub.LocalEntryNotFoundError, hub.OfflineModeIsEnabled, ConnectionError):
        if os.environ.get("HF_HUB_OFFLINE"):
            return "HF_HUB_OFFLINE is set and it is not in the cache: unset it, or give a local folder"
        return "it is not in the cache and the hub was not reached: check the network, or give a local folder"
    missing = next((cause.name for cause in causes(error) if isinstance(cause, ModuleNotFoundError) and cause.name), None)
    return f"install what provides the module {missing.partition('.')[0]!r}" if missing else None


def causes(error: BaseException) -> Iterator[BaseException]:
    """The error, and what it was raised from, or while handling."""
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__ or (None if found.__suppress_context__ else found.__context__)
