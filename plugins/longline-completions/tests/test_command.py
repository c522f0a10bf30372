"""`longline completions`, as a person runs it."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from longline import Table
from longline.cli import run_cli
from longline_completions.store import Facts, Store

FACTS = Facts("run-1", "dpo", "margin", "last", 80)
COLUMNS = ("step", "prompt", "chosen", "margin", "label", "count")


def manifest(folder: Path, **more) -> None:
    content = {"method": "dpo", "status": "completed", "plugins": [{"name": "completions"}], **more}
    (folder / "run.json").write_text(json.dumps(content))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with two tables of ten rows; margins are -9 to 10."""
    folder = tmp_path / "demo"
    folder.mkdir()
    manifest(folder)
    store = Store(folder / "completions")
    for last in (10, 20):
        rows = [
            (step, f"Question {step}", f"Answer [bold]{step}[/bold]", float((step * 7) % 20 - 9), step % 2 == 0, step)
            for step in range(last - 9, last + 1)
        ]
        store.write(Table("completions", COLUMNS, tuple(rows), last), FACTS)
    return folder


@pytest.fixture
def show(run: Path, capsys: pytest.CaptureFixture[str]):
    """Run the command on that run and return exit status, output and errors."""

    def command(*arguments: str, on: Path = run) -> tuple[int, str, str]:
        code = run_cli(["completions", str(on), *arguments])
        told = capsys.readouterr()
        return code, told.out, told.err

    return command


@pytest.fixture
def rows(show):
    """The rows that the command prints as JSON."""

    def command(*arguments: str) -> list[dict]:
        code, out, err = show("--json", *arguments)
        assert code == 0, err
        return [json.loads(line) for line in out.splitlines()]

    return command


def steps(found: list[dict]) -> list[int]:
    return [row["step"] for row in found]


# --- what is shown --------------------------------------------------------------------------------------------------------------


def test_all_rows_in_order(rows):
    found = rows()
    assert steps(found) == list(range(1, 21))
    assert found[2] == {
        "step": 3,
        "prompt": "Question 3",
        "chosen": "Answer [bold]3[/bold]",
        "margin": -8.0,
        "label": False,
        "count": 3,
    }


def test_the_newest_rows_when_there_are_too_many(show, rows):
    assert steps(rows("--limit", "3")) == [18, 19, 20]
    code, out, err = show("--limit", "3")
    assert code == 0
    assert "Question 18" in out
    assert "Question 17" not in out
    assert err == "the newest 3, of 20 rows in 2 tables; --limit 0 shows all\n"


def test_worst_best_and_sort(rows):
    assert [row["margin"] for row in rows("--worst", "--limit", "3")] == [-9.0, -8.0, -7.0]
    assert [row["margin"] for row in rows("--best", "--limit", "2")] == [10.0, 9.0]
    assert [row["margin"] for row in rows("--worst")] == sorted(row["margin"] for row in rows())
    assert [row["margin"] for row in rows("--sort", "margin")] == sorted((row["margin"] for row in rows()), reverse=True)
    assert steps(rows("--sort", "step", "--ascending", "--limit", "2")) == [1, 2]
    assert [row["prompt"] for row in rows("--sort", "prompt", "--limit", "2")] == ["Question 9", "Question 8"]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (["margin<-7"], lambda row: row["margin"] < -7),
        (["margin <= -7"], lambda row: row["margin"] <= -7),
        (["margin > 8.5"], lambda row: row["margin"] > 8.5),
        ([" margin>=9 "], lambda row: row["margin"] >= 9),
        (["margin = 3"], lambda row: row["margin"] == 3),
        (["margin==3"], lambda row: row["margin"] == 3),
        (["margin != 3"], lambda row: row["margin"] != 3),
        (["margin<0", "step>10"], lambda row: row["margin"] < 0 and row["step"] > 10),
        (["label = true"], lambda row: row["label"]),
        (["label != true"], lambda row: not row["label"]),
        (["prompt = Question 7"], lambda row: row["step"] == 7),
        (["prompt = 'Question 7'"], lambda row: row["step"] == 7),
        (['"prompt" != "Question 7"'], lambda row: row["step"] != 7),
        (["margin<1e1", "margin > -inf"], lambda row: row["margin"] < 10),
    ],
)
def test_filters(rows, filters, expected):
    found = rows(*[part for text in filters for part in ("--where", text)])
    assert found == [row for row in rows() if expected(row)]
    assert 0 < len(found) < 20


def test_contains_and_steps(rows):
    assert steps(rows("--contains", "qUESTION 1")) == [1, *range(10, 20)]
    assert steps(rows("--contains", "question", "--contains", "[bold]7")) == [7]
    assert steps(rows("--step", "7")) == [7]
    assert steps(rows("--step", "9-12")) == [9, 10, 11, 12]
    assert steps(rows("--step", "19-")) == [19, 20]
    assert steps(rows("--step", "-2")) == [1, 2]
    assert steps(rows("--step", "5-15", "--where", "label=true", "--worst", "--limit", "2")) == [6, 12]


def test_columns_are_chosen_and_ordered(show, rows):
    assert list(rows("--columns", "margin, step")[0]) == ["margin", "step"]
    _, out, _ = show("--columns", "margin,step", "--limit", "1")
    assert out.split() == ["margin", "step", "─" * out.count("─"), "-9", "20"]


def test_csv_is_read_by_others(show):
    code, out, err = show("--csv", "--where", "step<=2")
    assert (code, err) == (0, "")
    found = list(csv.DictReader(io.StringIO(out)))
    assert [row["step"] for row in found] == ["1", "2"]
    assert found[0]["chosen"] == "Answer [bold]1[/bold]"
    import pandas as pd

    frame = pd.read_csv(io.StringIO(out))
    assert [str(frame[name].dtype) for name in ("step", "margin", "label", "count")] == ["int64", "float64", "bool", "int64"]


def test_whole_texts(run, show):
    long = "first line\n" + "many words " * 500 + "\nstep 9  margin 1  is no heading"
    Store(run / "completions").write(Table("completions", ("step", "prompt", "margin"), ((30, long, 0.5),), 30), FACTS)
    _, out, _ = show("--full", "--limit", "1")
    assert "many words " * 400 in out
    assert out.startswith("step 30  margin 0.5  label -  count -\n  prompt\n    first line\n")
    assert "\n    step 9  margin 1  is no heading\n" in out
    _, short, _ = show("--limit", "1")
    assert "first line↵ many" in short
    assert " … " in short
    assert len(short) < 2000


def test_no_match_is_said_on_stderr(show):
    code, out, err = show("--where", "margin > 100", "--json")
    assert (code, out) == (0, "")
    assert err == "no row matches, of 20 rows in 2 tables\n"


def test_a_single_file(run, rows, show):
    code, out, _ = show("--json", on=run / "completions" / "step-000010.parquet")
    assert code == 0
    assert len(out.splitlines()) == 10


def test_missing_values_come_last_and_match_only_themselves(run, rows):
    table = Table("completions", ("step", "margin"), ((31, math.nan), (32, None), (33, math.inf), (34, -math.inf)), 34)
    Store(run / "completions").write(table, FACTS)
    assert steps(rows("--worst"))[:1] + steps(rows("--worst"))[-3:] == [34, 33, 31, 32]
    assert steps(rows("--best"))[:1] + steps(rows("--best"))[-3:] == [33, 34, 31, 32]
    assert steps(rows("--best", "--limit", "23"))[-1] == 31
    assert steps(rows("--where", "margin = nan")) == [31]
    assert steps(rows("--where", "margin = null")) == [32]
    assert 32 not in steps(rows("--where", "margin < 1000"))
    assert 31 not in steps(rows("--where", "margin < 1000"))
    assert steps(rows("--where", "margin != null", "--step", "31-")) == [31, 33, 34]
    assert steps(rows("--where", "prompt = null")) == [31, 32, 33, 34]
    assert [row["margin"] for row in rows("--step", "31-")] == ["NaN", None, "Infinity", "-Infinity"]


def test_columns_that_differ_between_tables(run, rows, show):
    table = Table("completions", ("step", "completion", "my reward"), ((40, "new", 0.5),), 40)
    Store(run / "completions").write(table, FACTS)
    assert rows("--where", '"my reward" > 0') == [
        {
            "step": 40,
            "prompt": None,
            "chosen": None,
            "margin": None,
            "label": None,
            "count": None,
            "completion": "new",
            "my reward": 0.5,
        }
    ]
    assert "my reward" in show("--limit", "1")[1]


# --- what a model may write -----------------------------------------------------------------------------------------------------

NASTY = (
    "[red]no[/red] \x1b[31mESC\x1b]0;title\x07 \x9b31m NUL\x00 CR\r BEL\x07 BS\x08 DEL\x7f \u202eRTL\u2066 \u2028LS 語👩‍👩‍👧"
)


@pytest.fixture
def nasty(run: Path) -> Path:
    columns = ("step", "prompt \x1b[1m[bold]", "margin")
    Store(run / "completions").write(Table("completions", columns, ((99, NASTY, 0.5),), 99), FACTS)
    return run


@pytest.mark.parametrize("options", [[], ["--full"], ["--json"], ["--csv"]], ids=["table", "full", "json", "csv"])
def test_a_terminal_is_sent_nothing_that_it_would_obey(nasty, options):
    """On a real terminal, whose own colours are the only escape sequences."""
    main, side = pty.openpty()
    command = [sys.executable, "-m", "longline", "completions", str(nasty), "--step", "99", *options]
    environ = {**os.environ, "COLUMNS": "400", "TERM": "xterm"}
    process = subprocess.Popen(command, stdout=side, stderr=subprocess.PIPE, env=environ)
    os.close(side)
    chunks = []
    while True:
        try:
            chunks.append(os.read(main, 65536))
        except OSError:
            break
    assert process.wait() == 0
    os.close(main)
    text = b"".join(chunks).decode()
    colours = ("\x1b[0m", "\x1b[1m", "\x1b[36m")
    for colour in colours:
        text = text.replace(colour, "")
    text = text.replace("\r\n", "\n")
    assert not [character for character in text if character in "\x1b\x9b\x00\x07\x08\x7f\r\u202e\u2066\u2028"]
    assert "[red]no[/red]" in text
    assert "語👩‍👩‍👧" in text
    if options != ["--json"]:
        assert "\\x1b[31mESC\\x1b]0;title\\x07 \\x9b31m NUL\\x00 CR\\r" in text


def test_json_and_csv_in_a_pipe_lose_nothing(nasty, show):
    name = "prompt \x1b[1m[bold]"
    assert json.loads(show("--json", "--step", "99")[1])[name] == NASTY
    (row,) = csv.DictReader(io.StringIO(show("--csv", "--step", "99")[1], newline=""))
    assert row[name] == NASTY


def test_an_output_that_knows_no_unicode(nasty):
    environ = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    command = [sys.executable, "-m", "longline", "completions", str(nasty), "--step", "99"]
    done = subprocess.run(command, capture_output=True, env=environ, check=False)
    assert done.returncode == 0, done.stderr
    assert b"\\u8a9e\\U0001f469" in done.stdout


# --- mistakes -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (
            ["--where", "mergin < 0"],
            "--where: there is no column 'mergin'\n  hint: did you mean 'margin'? there are step, prompt",
        ),
        (["--sort", "zzz"], "--sort: there is no column 'zzz'\n  hint: there are step, prompt, chosen"),
        (["--columns", "step,chosn"], "--columns: there is no column 'chosn'\n  hint: did you mean 'chosen'?"),
        (["--columns", " , "], "--columns names no column"),
        (["--where", "margin"], "--where 'margin' is no filter\n  hint: write COLUMN SIGN VALUE"),
        (["--where", "margin <"], "--where 'margin <' is no filter"),
        (["--where", "< 0"], "--where '< 0' is no filter"),
        (["--where", ""], "--where '' is no filter"),
        (["--where", "margin < high"], "margin holds numbers, and 'high' is none"),
        (["--where", "margin < nan"], "nothing is less or more than nan"),
        (["--where", "label = maybe"], "label holds true and false, not 'maybe'"),
        (["--where", "label > false"], "label holds true and false\n  hint: compare it with = or !="),
        (["--where", "prompt < b"], "prompt holds text\n  hint: compare it with = or !=; --contains"),
        (["--step", "ten"], "--step 'ten' is no step\n  hint: write 100, 100-200"),
        (["--step", "20-10"], "20 comes after 10"),
        (["--step", "-"], "--step '-' is no step"),
        (["--worst", "--best"], "--worst and --best exclude each other"),
        (["--sort", "step", "--best"], "--best and --sort exclude each other"),
        (["--json", "--csv"], "--json and --csv exclude each other"),
        (["--ascending"], "--ascending needs --sort"),
        (["--limit", "-1"], "--limit"),
    ],
)
def test_what_cannot_be_is_refused_with_status_2(show, arguments, told):
    code, out, err = show(*arguments)
    assert (code, out) == (2, "")
    assert told in err


def test_no_such_run(show, tmp_path):
    code, _, err = show(on=tmp_path / "nowhere")
    assert code == 2
    assert f"there is no run {tmp_path / 'nowhere'}\n  hint: longline runs" in err


def test_a_folder_that_is_no_run(show, tmp_path):
    (tmp_path / "empty").mkdir()
    code, _, err = show(on=tmp_path / "empty")
    assert code == 2
    assert "is not a run folder: it has no run.json" in err
    (tmp_path / "file.txt").write_text("")
    assert show(on=tmp_path / "file.txt")[0] == 2


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"plugins": []}, "has no completions: the plugin was not on\n  hint: add completions to plugins:"),
        ({"method": "sft"}, "has no completions: method sft compares none"),
        ({"status": "running"}, "has no table yet\n  hint: the first one comes after `every` steps"),
        ({"status": "failed"}, "it ended as failed before rows came"),
    ],
)
def test_a_run_without_tables_says_why(show, tmp_path, more, told):
    folder = tmp_path / "bare"
    folder.mkdir()
    manifest(folder, **more)
    code, _, err = show(on=folder)
    assert code == 2
    assert told in err


def test_a_damaged_file_is_named_and_the_rest_is_shown(run, show):
    (run / "completions" / "step-000015.parquet").write_bytes(b"not Parquet at all")
    code, out, err = show("--json")
    assert code == 2
    assert len(out.splitlines()) == 20
    assert "left out:" in err
    assert "step-000015.parquet cannot be read: Parquet magic bytes not found" in err


def test_a_file_that_is_damaged_inside(run, show):
    path = run / "completions" / "step-000010.parquet"
    content = bytearray(path.read_bytes())
    content[4:400] = os.urandom(396)
    path.write_bytes(content)
    code, out, err = show("--json")
    assert code == 2
    assert [json.loads(line)["step"] for line in out.splitlines()] == list(range(11, 21))
    assert "step-000010.parquet cannot be read" in err


def test_only_damaged_files(run, show):
    for path in (run / "completions").iterdir():
        path.write_bytes(b"")
    code, out, err = show()
    assert (code, out) == (2, "")
    assert err.count("left out:") == 2
    assert "can be read" in err


def test_tables_without_a_score(tmp_path, show):
    folder = tmp_path / "noscore"
    folder.mkdir()
    manifest(folder)
    Store(folder / "completions").write(Table("completions", ("step", "prompt"), ((1, "a"),), 1), FACTS)
    code, _, err = show("--worst", on=folder)
    assert code == 2
    assert "--worst: the tables have no score\n  hint: use --sort; there are step, prompt" in err


def test_a_parquet_file_of_somebody_else(tmp_path, show):
    import pandas as pd

    pd.DataFrame({"a": [1, 2], "b": [[1], [2, 3]]}).to_parquet(tmp_path / "other.parquet")
    code, out, _ = show("--json", on=tmp_path / "other.parquet")
    assert code == 0
    assert len(out.splitlines()) == 2
    assert show(on=tmp_path / "other.parquet")[0] == 0


# --- cost -----------------------------------------------------------------------------------------------------------------------


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from longline.cli import run_cli; run_cli(['completions', '--help']);"
        "import longline_completions.plugin, longline_completions.config;"
        "print(sorted({'torch', 'transformers', 'pyarrow', 'pandas', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "--worst" in done.stdout


def test_a_long_run_is_shown_without_reading_all_of_it(tmp_path, show):
    """The newest rows come from the newest file: the damage in an older one isn't even noticed."""
    folder = tmp_path / "long"
    folder.mkdir()
    manifest(folder)
    store = Store(folder / "completions")
    for last in (10, 20):
        rows = tuple((step, "word " * 20, 0.5) for step in range(last - 9, last + 1))
        store.write(Table("completions", ("step", "prompt", "margin"), rows, last), FACTS)
    path = folder / "completions" / "step-000010.parquet"
    content = bytearray(path.read_bytes())
    content[4:200] = os.urandom(196)
    path.write_bytes(content)
    assert show("--limit", "10", on=folder)[0] == 0
    assert show("--limit", "11", on=folder)[0] == 2
