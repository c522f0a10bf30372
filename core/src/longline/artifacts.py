"""What a run leaves behind: checkpoints, the final model, the manifest. Whatever has a name here is whole.

Folders are written under `.saving` and renamed; files are written beside themselves and renamed.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from longline.errors import ConfigError, LonglineError, ModelError, TrainingError
from longline.text import one_line

if TYPE_CHECKING:
    from longline.plan import Plan

STAGING = ".saving"
"""The folder of a run in which checkpoints and models are written before they get their name."""

UNFINISHED = "model-unfinished"
"""The folder of a final model of which not all could be written, or that was another one when it was loaded again."""

OWN_NAMES = ("run.json", "config.yaml", "log.jsonl", "model", UNFINISHED, "merged", "evaluation", STAGING)
"""What a run writes into its folder, beside checkpoints and what plugins name in `Plugin.files`; `--overwrite` deletes these and
nothing else."""

LIBRARIES = ("longline", "torch", "transformers", "peft", "accelerate", "datasets", "tokenizers", "trl", "pluggy", "pydantic")


def write_atomically(path: Path, text: str) -> None:
    """Write a text file so that a reader, or a crash, sees the old one or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8", errors="backslashreplace") as stream:  # half of a surrogate pair
            stream.write(text)
            stream.flush()
            # Without it the new name can outlive a power cut that the content does not.
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def publish(new: Path, final: Path) -> None:
    """Give a finished folder its name; what has that name already is moved aside first, never half deleted in place."""
    if final.exists():
        _discard(final)
    new.rename(final)


def _discard(folder: Path) -> None:
    """Delete a folder so that a crash in the middle leaves nothing under its name."""
    grave = folder.parent / STAGING / f"old-{folder.name}-{os.getpid()}"
    grave.parent.mkdir(exist_ok=True)
    folder.rename(grave)
    shutil.rmtree(grave, ignore_errors=True)


# --- the run folder, claimed by one process -----------------------------------------------------------------------------------


@contextmanager
def claim(folder: Path, *, resume: bool, overwrite: bool, files: Sequence[str]) -> Iterator[None]:
    """Hold the folder, for this process alone; it is made when it is not there. `files` are the names that plugins write.

    Raises:
        ConfigError: it cannot be written, is in use, or holds another run and neither `resume` nor `overwrite` is given.
    """
    # The system lets go of it when the process dies, however that happens, so a killed run blocks no other.
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise ConfigError(f"{folder} is in use by another run", hint="wait for it, or choose another output_dir") from None
    except OSError as error:
        raise _not_writable(folder, error) from error
    try:
        if not resume:
            _clear(folder, overwrite, files)
        yield
    finally:
        lock.release()


def write_config(path: Path, text: str) -> None:
    """Put the resolved config into the folder. Raises ConfigError when that cannot be written."""
    try:
        write_atomically(path, text)
    except OSError as error:
        raise _not_writable(path.parent, error) from error


def _not_writable(folder: Path, error: OSError) -> ConfigError:
    hint = "free space" if _is_full(str(error)) else "check output_dir"
    return ConfigError(f"cannot write the run folder {folder}: {error.strerror or error}", hint=hint)


def _clear(folder: Path, overwrite: bool, files: Sequence[str]) -> None:
    """Delete what an earlier run left, if that is wanted; whatever else lies in the folder stays.

    `files` are those of this run's plugins; the earlier run's may have been others.
    """
    # The folder may hold something else, and --overwrite may be in somebody's shell history.
    names = {*OWN_NAMES, *files, *plugin_files(folder)}
    taken = [path for path in folder.iterdir() if path.name in names] + checkpoints(folder)
    if taken and not overwrite:
        hint = "--resume goes on with it, --overwrite deletes it, or choose another output_dir"
        raise ConfigError(f"{folder} already holds a run", hint=hint)
    try:
        _delete(path for path in taken if path.name != "config.yaml")  # replaced in place: another rank may be reading it
    except OSError as error:
        raise _not_writable(folder, error) from error


def _delete(paths: Iterable[Path]) -> None:
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def remove(run_dir: Path, names: Sequence[str]) -> list[str]:
    """Delete these names of a run folder, and the folder if nothing else is in it; return what of others is.

    Raises:
        ConfigError: the run is going on, or a file cannot be deleted.
    """
    with claim(run_dir, resume=True, overwrite=False, files=()):
        try:
            # the manifest last: a deletion that is cut off leaves a run that can be deleted
            _delete(sorted((run_dir / name for name in names), key=lambda path: path.name == "run.json"))
            left = sorted(path.name for path in run_dir.iterdir() if path.name not in (".lock", *OWN_NAMES))
            if not left and not (run_dir / "run.json").exists():
                shutil.rmtree(run_dir)
        except OSError as error:
            raise ConfigError(f"cannot delete {error.filename}: {error.strerror}") from error
    return left


def plugin_files(run_dir: Path) -> list[str]:
    """What the plugins of an earlier run in this folder wrote beside its own files; nothing if there is no readable manifest."""
    try:
        listed = json.loads((run_dir / "run.json").read_text(encoding="utf-8")).get("files", [])
    except (OSError, ValueError, AttributeError):
        return []
    names = listed if isinstance(listed, list) else []
    return [name for name in names if isinstance(name, str) and name == Path(name).name]


def left_behind(plan: Plan) -> list[tuple[str, Path]]:
    """Return what a run folder holds, for people: (what, where)."""
    files = [("model", plan.model_dir), ("log", plan.log_path), ("manifest", plan.manifest_path), ("config", plan.config_path)]
    found = [(name, path) for name, path in files if path.exists()]
    return found + [("checkpoint", path) for path in checkpoints(plan.output_dir)[-1:]]


# --- checkpoints ----------------------------------------------------------------------------------------------------------------


def checkpoints(run_dir: Path) -> list[Path]:
    """Return the checkpoints of a run, by step."""
    found = [path for path in run_dir.glob("checkpoint-*") if path.name[11:].isdigit() and path.is_dir()]
    return sorted(found, key=lambda path: int(path.name[11:]))


def complete(run_dir: Path) -> str:
    """The names of a run's checkpoints, for people."""
    return ", ".join(path.name for path in checkpoints(run_dir)) or "none yet"


def prune(run_dir: Path, limit: int | None, best: str | None) -> None:
    """Delete the oldest checkpoints beyond `limit`; the newest and the best always stay."""
    found = checkpoints(run_dir)
    if not limit or limit <= 0:
        return
    spare = [path for path in found[:-1] if best is None or path != Path(best)]
    for path in spare[: max(0, len(found) - max(limit, len(found) - len(spare)))]:
        _discard(path)


FULL = ("No space left", "File too large", "Disk quota")
"""How the system, and libraries that pass on its words, call a disk that is full."""


def _is_full(text: str) -> bool:
    return any(mark in text for mark in FULL)


def not_written(error: Exception, final: Path) -> Exception:
    """Turn what a full disk looks like from torch, safetensors and the system into one clear error; pass on the rest."""
    text = str(error).strip()
    if any(mark in text for mark in ("PytorchStreamWriter", "unexpected pos")):
        reason = "the disk is full, or files may not grow this large"  # all that torch says is where it stopped
    elif isinstance(error, OSError) or _is_full(text):
        reason = _first_line(error)
    else:
        return error
    full = not isinstance(error, OSError) or _is_full(text)
    again = f"with --resume; complete checkpoints: {complete(final.parent)}" if checkpoints(final.parent) else "from the start"
    hint = f"{'free space' if full else 'let it be written'} and run again {again}"
    return TrainingError(f"cannot write {final}: {reason}", hint=hint)


def _first_line(error: Exception) -> str:
    """Name and gist of an error: its first line, and the second where the first only announces it."""
    first, *more = [line for line in str(error).splitlines() if line.strip()] or [""]
    return f"{type(error).__name__}: {first.strip()}{f' {more[0].strip()}' if more and first.strip().endswith(':') else ''}"


# --- the final model ------------------------------------------------------------------------------------------------------------


Write = Callable[[Path], object]
"""Writes something into a folder."""


def save_model(folder: Path, write: Write, card: Write, finish: Write) -> None:
    """Let `write` put weights and tokenizer into an empty folder, `card` the card, let `finish` have its hand on it, and name it.

    Raises:
        TrainingError: it could not be written.
    """
    staging = folder.parent / STAGING / folder.name
    try:
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        for step in (write, card, finish):
            step(staging)
        publish(staging, folder)
    except Exception as error:
        raise not_written(error, folder) from error
    finally:
        shutil.rmtree(staging.parent, ignore_errors=True)


def rehearse(folder: Path, writes: Mapping[str, Write]) -> None:
    """Let each of `writes`, by what it writes, do so beside where the model will be; what it wrote is deleted.

    Raises:
        ModelError: one of them cannot.
        ConfigError: the run folder cannot be written.
    """
    staging, what = folder.parent / STAGING / folder.name, ""
    try:
        staging.mkdir(parents=True, exist_ok=True)
        for name, write in writes.items():
            what = name
            write(staging)
    except OSError as error:
        raise _not_writable(folder.parent, error) from error
    except Exception as error:
        text = f"a model with this {what} could not be saved after training: {_first_line(error)}"
        raise ModelError(text, hint="mend it in a copy of the model's folder; nothing was trained") from error
    finally:
        shutil.rmtree(staging.parent, ignore_errors=True)


@contextmanager
def keeping(folder: Path, step: int, weights: Write | None) -> Iterator[None]:
    """When the block, which saves the model of `step` as `folder`, fails, write its `weights` elsewhere and say where they are.

    That is not done where they lie in a checkpoint or were written already, nor without `weights`, as on a rank that saves nothing.
    """
    kept = folder.with_name(UNFINISHED)
    shutil.rmtree(kept, ignore_errors=True)
    try:
        yield
    except Exception as error:
        if weights is None or kept.exists():
            raise
        checkpoint = folder.with_name(f"checkpoint-{step}")
        where = checkpoint if checkpoint.is_dir() else _kept(weights, kept)
        hint = f"the weights are kept in {where}" if where else "the weights could not be written anywhere else either"
        told = error if isinstance(error, LonglineError) else TrainingError(f"cannot write {folder}: {_first_line(error)}")
        told.hint = f"{hint}; {told.hint}" if told.hint else hint
        raise told from error


def _kept(weights: Write, folder: Path) -> Path | None:
    """Where weights could be written: in this folder, or among temporary files, which may lie on another disk."""
    for place in (folder, Path(tempfile.gettempdir()) / f"{folder.name}-{os.getpid()}"):
        try:
            place.mkdir()
            weights(place)
        except Exception:  # the next place may do
            shutil.rmtree(place, ignore_errors=True)
            continue
        return place
    return None


def card_writer(card: str) -> Write:
    """What writes a model card; half of a surrogate pair, as a path may hold it, is written out."""
    return lambda folder: (folder / "README.md").write_text(card, encoding="utf-8", errors="backslashreplace")


def model_card(
    plan: Plan,
    base: str,
    adapter: str | None,
    metrics: Mapping[str, float],
    config: str,
    facts: Sequence[tuple[str, str, str]] = (),
) -> str:
    """Return the model card: metadata that hubs read, how to load it, how it was made.

    `config` has its secrets masked; `facts` are what plugins told: (name, value, why).
    """
    rows = "\n".join(f"| {_cell(name)} | {value:.6g} |" for name, value in sorted(metrics.items()))
    head = ["---", f"base_model: {base}", "library_name: " + ("peft" if adapter else "transformers")]
    task = "text-generation" if plan.output == "tokens" else "text-classification"
    head += [f"pipeline_tag: {task}", "tags: [longline, " + plan.method + (", lora" if adapter else "") + "]", "---"]
    kind = f"an adapter ({adapter}) for `{base}`" if adapter else f"`{base}`, all weights trained"
    return "\n".join(
        [
            *head,
            "",
            f"# {plan.output_dir.name}",
            "",
            f"This is {kind}, tuned with Longline (method {plan.method}, {plan.steps} steps of {plan.global_batch} rows).",
            "",
            "| metric | last value |",
            "|---|---|",
            rows,
            "",
            *(f"- {one_line(name)}: {one_line(value)} ({one_line(why)})" for name, value, why in facts),
            *([""] if facts else []),
            "## The config",
            "",
            "```yaml",
            config.rstrip(),
            "```",
            "",
        ]
    )


def _cell(text: str) -> str:
    return one_line(text).replace("|", "\\|")


# --- the manifest ---------------------------------------------------------------------------------------------------------------


def versions() -> dict[str, str]:
    """Return the versions of Python, the platform and the libraries that decide a result; absent ones are left out."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def now() -> str:
    """Return the time as the manifest writes it: UTC, ISO 8601, milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def write_manifest(path: Path, content: Mapping[str, Any], mask: Callable[[str], str]) -> None:
    """Write run.json; `mask` takes secrets out of every text."""
    # Text by text, since what it writes out (`\\x9b`) would be no JSON any more in the whole.
    write_atomically(path, json.dumps(_masked(content, mask), indent=2, ensure_ascii=False) + "\n")


def _masked(value: Any, mask: Callable[[str], str]) -> Any:
    if isinstance(value, Mapping):
        return {mask(str(name)): _masked(item, mask) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_masked(item, mask) for item in value]
    return value if value is None or isinstance(value, (bool, int, float)) else mask(str(value))


def read_manifest(run_dir: Path) -> dict[str, Any]:
    """Return the manifest of a run folder.

    Raises:
        ConfigError: the folder holds none, or it is not one.
    """
    path = run_dir / "run.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{run_dir} is not a run folder: it has no run.json") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} is not a manifest")
    return content
