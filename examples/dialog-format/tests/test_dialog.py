"""Real rows through the real commands: they are previewed, trained on, and refused with their place."""

import json

import pytest

from longline.cli import run_cli

GOOD = "User: How many hooks?\nBot: Seven.\nOne is spare.\nUser: Thanks.\nBot: Tight lines!"


@pytest.fixture
def config(run_config, tmp_path):
    """Write rows of these texts, and a config that names them."""

    def write(*texts, column="text", **source):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps({column: text}) + "\n" for text in texts))
        source = {"path": str(path), "format": "dialog", **source}
        return run_config(data={"train": [source], "too_long": "drop"}, trainer={"max_steps": 2})

    return write


def test_the_bots_turns_are_learnt(config, capsys):
    assert run_cli(["preview", str(config(GOOD)), "--rows", "1"]) == 0
    shown = capsys.readouterr().out.replace("[[", "⟦").replace("]]", "⟧")
    assert "⟦Seven.\nOne is spare.<|im_end|>" in shown
    assert "⟦Tight lines!<|im_end|>" in shown
    assert "<|im_start|>user\nThanks.<|im_end|>" in shown


def test_it_trains(config, run_longline, capsys):
    outcome = run_longline(config(*[GOOD.replace("Seven", f"{number}") for number in range(8)]))
    assert outcome.result.status == "completed"
    assert "rows.jsonl: dialog\n  8 rows, 8 kept" in capsys.readouterr().out


def test_columns_and_roles_of_the_config_are_heeded(config, capsys):
    path = config("Mate: Ready?\nBot: Aye.", column="log", columns={"text": "log"}, roles={"Mate": "user"})
    assert run_cli(["preview", str(path), "--rows", "1"]) == 0
    assert "<|im_start|>user\nReady?" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("Good day.\nUser: Hello\nBot: Hi", "the text begins with 'Good day.', and not with User: or Bot:"),
        ("User: Hello\nBot:  \n", "turn 2 (Bot) is empty"),
        ("User: Hello\nUser: Anybody?\nBot: Yes", "turn 2 is of User, who spoke just before"),
        ("User: Hello", "nobody answers: there is no turn of the Bot"),
        (7, "the field 'text' is missing or no text (found: text)"),
    ],
)
def test_a_bad_row_is_named_with_its_place(config, capsys, text, told):
    assert run_cli(["preprocess", str(config(GOOD, text))]) == 2
    assert f"rows.jsonl:2: {told}" in capsys.readouterr().err


def test_a_misspelled_name_gets_the_nearest(config, capsys):
    assert run_cli(["check", str(config(GOOD, format="dialogue"))]) == 2
    assert "did you mean 'dialog'?" in capsys.readouterr().err.replace("`", "'")
