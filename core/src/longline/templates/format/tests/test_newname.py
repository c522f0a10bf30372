"""Real rows through the real commands: they are previewed, trained on, and refused with their place."""

import json

import pytest
from longline.cli import run_cli

GOOD = {"question": "How many hooks?", "answer": "Seven."}


@pytest.fixture
def config(run_config, tmp_path):
    """Write rows, and a config that names them."""

    def write(*rows, **source):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        source = {"path": str(path), "format": "newname", **source}
        return run_config(data={"train": [source]}, trainer={"max_steps": 2})

    return write


def test_the_answer_is_learnt(config, capsys):
    assert run_cli(["preview", str(config(GOOD)), "--rows", "1"]) == 0
    shown = capsys.readouterr().out.replace("[[", "⟦").replace("]]", "⟧")
    assert "<|im_start|>user\nHow many hooks?<|im_end|>" in shown
    assert "⟦Seven.<|im_end|>" in shown


def test_it_trains(config, run_longline, capsys):
    outcome = run_longline(config(*[{**GOOD, "answer": f"{number}."} for number in range(8)]))
    assert outcome.result.status == "completed"
    assert "rows.jsonl: newname\n  8 rows, 8 kept" in capsys.readouterr().out


@pytest.mark.parametrize("bad", [{"question": "Why?"}, {**GOOD, "answer": ""}, {**GOOD, "question": 7}])
def test_a_bad_row_is_named_with_its_place(config, capsys, bad):
    assert run_cli(["preprocess", str(config(GOOD, bad))]) == 2
    assert "rows.jsonl:2: the field" in capsys.readouterr().err


def test_a_misspelled_name_gets_the_nearest(config, capsys):
    assert run_cli(["check", str(config(GOOD, format="newnames"))]) == 2
    assert "did you mean 'newname'?" in capsys.readouterr().err.replace("`", "'")
