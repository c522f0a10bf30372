"""Files that are no config, or mean harm: each gets one clear message, quickly."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from longline.config.loader import load_config
from longline.errors import EXIT_CONFIG, ConfigError


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, so that messages hold short names."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(content: str | bytes) -> str:
    """The one message that a file with this content gets; within two seconds."""
    Path("c.yaml").write_bytes(content.encode() if isinstance(content, str) else content)
    begun = time.monotonic()
    with pytest.raises(ConfigError) as caught:
        load_config(Path("c.yaml"))
    assert time.monotonic() - begun < 2
    assert caught.value.exit_code == EXIT_CONFIG
    return str(caught.value)


def billion_laughs() -> str:
    lines = ["a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10)]
    return "\n".join(lines)


TOO_MANY = "more than 20000 values, aliases counted at each use"

CASES: dict[str, tuple[str | bytes, str]] = {
    "empty": ("", "c.yaml: the file is empty (see `longline new` for one to start from)"),
    "only comments": ("# hello\n\n", "c.yaml: the file is empty (see `longline new` for one to start from)"),
    "only a marker": ("---\n", "c.yaml: the file is empty (see `longline new` for one to start from)"),
    "a list at the top": (
        "- a\n- b\n",
        "c.yaml:1:1: a list at the top; a config is keys with values (see `longline new` for one to start from)",
    ),
    "a value at the top": (
        "\nhello\n",
        "c.yaml:2:1: a single value at the top; a config is keys with values (see `longline new` for one to start from)",
    ),
    "python object": (
        "a: 1\nb: !!python/object/apply:os.system [touch pwned]\n",
        "c.yaml:2:4: the YAML tag `!!python/object/apply:os.system` is not allowed (a config holds plain values only)",
    ),
    "python name": (
        "b: !!python/name:os.system ''\n",
        "c.yaml:1:4: the YAML tag `!!python/name:os.system` is not allowed (a config holds plain values only)",
    ),
    "own tag": ("b: !secret x\n", "c.yaml:1:4: the YAML tag `!secret` is not allowed (a config holds plain values only)"),
    "binary": (
        "b: !!binary aGVsbG8=\n",
        "c.yaml:1:4: the YAML tag `!!binary` is not allowed (a config holds plain values only)",
    ),
    "tag on a mapping": (
        "b: !!set {a, b}\n",
        "c.yaml:1:4: the YAML tag `!!set` is not allowed (a config holds plain values only)",
    ),
    "two tags": (
        "a: !x 1\nb: !y 2\n",
        (
            "c.yaml:1:4: the YAML tag `!x` is not allowed (a config holds plain values only)\n"
            "c.yaml:2:4: the YAML tag `!y` is not allowed (a config holds plain values only)"
        ),
    ),
    "wrong int": ("b: !!int twelve\n", "c.yaml:1:4: `twelve` cannot be read as int"),
    "huge int": (f"b: {'9' * 5000}\n", f"c.yaml:1:4: `{'9' * 60}` cannot be read as int"),
    "duplicate key": ("a: 1\nb: 2\na: 3\n", "c.yaml:3:1: `a` is given twice; the first is at c.yaml:1:1 (keep one of them)"),
    "nested duplicates": (
        "a: {x: 1, x: 2}\nb:\n  y: 1\n  'y': 2\n",
        (
            "c.yaml:1:11: `x` is given twice; the first is at c.yaml:1:5 (keep one of them)\n"
            "c.yaml:4:3: `y` is given twice; the first is at c.yaml:3:3 (keep one of them)"
        ),
    ),
    "key is a list": ("? [a, b]\n: 1\n", "c.yaml:1:3: a key must be text, not a list or a mapping"),
    "alias bomb": (billion_laughs(), f"c.yaml:1:5: {TOO_MANY} (aliases of aliases grow without bound)"),
    "merge bomb": (
        "a0: &a0 {k0: 1, k1: 2, k3: 3}\n"
        + "".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 10)),
        f"c.yaml:1:5: {TOO_MANY} (aliases of aliases grow without bound)",
    ),
    "alias of itself": ("a: &a [1, *a]\n", "c.yaml:1:4: an alias that contains itself"),
    "unknown alias": ("a: *nowhere\n", "c.yaml:1:4: not valid YAML: found undefined alias 'nowhere'"),
    "merge of a value": ("a: {<<: 5, b: 1}\n", "c.yaml:1:9: `<<` needs a mapping, or a list of mappings"),
    "deep lists": (
        "a: " + "[" * 50_000,
        "c.yaml:1:66: nested deeper than 64 levels (a config does not need that; is this the right file?)",
    ),
    "deep mappings": (
        "a: " + "{a: " * 5_000,
        "c.yaml:1:252: nested deeper than 64 levels (a config does not need that; is this the right file?)",
    ),
    "many values": (
        "a: [" + "1, " * 30_000 + "]",
        f"c.yaml:1:4: {TOO_MANY} (a config does not need that; is this the right file?)",
    ),
    "too large": (
        "# " + "x" * 1_000_000,
        "c.yaml: 1,000,002 bytes; a config is at most 1,000,000\n  hint: is this a data file?",
    ),
    "not UTF-8": (b"a: 1\nb: caf\xe9\n", "c.yaml:2:7: not UTF-8: byte 0xe9 at offset 11 (save the file as UTF-8)"),
    "UTF-16": ("a: 1\n".encode("utf-16"), "c.yaml:1:1: not UTF-8: byte 0xff at offset 0 (save the file as UTF-8)"),
    "NUL": (b"a: 1\nbc: \x00\n", "c.yaml:2:5: control character U+0000 is not allowed in YAML"),
    "escape": (b"a: \x1b[31m\n", "c.yaml:1:4: control character U+001B is not allowed in YAML"),
    "tab": ("a:\n\tb: 1\n", "c.yaml:2:1: a tab cannot indent YAML (use spaces)"),
    "two documents": ("a: 1\n---\nb: 2\n", "c.yaml:2:1: a second document begins here; a config is one document"),
    "stray colon": (
        "a: b: c\n",
        "c.yaml:1:5: `: ` is not allowed here (quote the text if it contains a colon, or check the indentation above)",
    ),
    "open bracket": (
        "a: [1, 2\nb: 3\n",
        "c.yaml:2:2: not valid YAML: while parsing a flow sequence, expected ',' or ']', but got ':'",
    ),
    "open quote": ('a: "hello\n', "c.yaml:2:1: not valid YAML: while scanning a quoted scalar, found unexpected end of stream"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_hostile_file_gets_a_clear_message(name: str) -> None:
    content, expected = CASES[name]
    assert refused(content) == expected
    assert not Path("pwned").exists()


def test_a_file_that_is_missing_names_the_nearest() -> None:
    Path("train.yaml").touch()
    with pytest.raises(ConfigError) as caught:
        load_config(Path("trian.yaml"))
    assert str(caught.value) == "trian.yaml: no such file\n  hint: did you mean train.yaml?"


def test_a_folder() -> None:
    with pytest.raises(ConfigError, match=r"^\.: is a folder, not a config file$"):
        load_config(Path())


def test_a_pipe_is_not_waited_for() -> None:
    os.mkfifo("pipe.yaml")
    with pytest.raises(ConfigError, match=r"^pipe\.yaml: is not a regular file$"):
        load_config(Path("pipe.yaml"))


def test_ten_megabytes_are_refused_without_being_read() -> None:
    with Path("c.yaml").open("wb") as file:
        file.truncate(10_000_000)
    with pytest.raises(ConfigError, match="10,000,000 bytes"):
        load_config(Path("c.yaml"))


def test_a_byte_order_mark_is_no_mistake() -> None:
    Path("c.yaml").write_bytes(b"\xef\xbb\xbfmodel: {path: a/b}\ndata: {train: a/b}\noutput_dir: o\n")
    assert load_config(Path("c.yaml")).config.model.path == "a/b"
