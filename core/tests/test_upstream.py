"""What the core relies on beyond the documentation of trl, transformers and the others still holds for what is installed."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from longline import upstream
from longline.upstream import ASSUMPTIONS, TESTED, Assumption, every, reads


@pytest.mark.parametrize("assumption", ASSUMPTIONS, ids=lambda assumption: assumption.about)
def test_what_is_assumed_still_holds(assumption: Assumption) -> None:
    assert assumption.broken() is None, assumption.broken()


def test_every_assumption_says_what_it_is_about_once() -> None:
    about = [assumption.about for assumption in ASSUMPTIONS]
    assert len(about) == len(set(about))
    assert {name.partition(".")[0] for name in about} <= set(TESTED)
    assert all(len(assumption.sentence.split()) >= 4 and assumption.read_in for assumption in ASSUMPTIONS)


SENTENCE = "it brings the user a cup of tea"
TRAINER = "transformers:Trainer"


@pytest.mark.parametrize(
    ("check", "also"),
    [
        (reads(f"{TRAINER}._save_checkpoint", takes=("tea",)), ""),
        (reads(f"{TRAINER}._save_checkpoint", takes=("trial", "model")), ""),
        (reads(f"{TRAINER}._save_checkpoint", says=("self.brew(",)), ""),
        (reads(f"{TRAINER}._brew"), "AttributeError"),
        (reads("transformers.tea:pot"), "ModuleNotFoundError"),
        (every(reads(f"{TRAINER}._save"), reads("trl:DPOTrainer.__init__", says=("tea(",))), ""),
    ],
    ids=["parameter", "order", "source", "name", "module", "one of two"],
)
def test_a_wrong_assumption_fails_with_its_sentence(check, also) -> None:
    told = Assumption("transformers.Trainer._brew", "5.23.0", SENTENCE, check).broken()
    assert told is not None
    assert told.startswith(f"transformers.Trainer._brew, as of 5.23.0: {SENTENCE}")
    assert also in told


def test_what_is_installed_is_what_was_tested() -> None:
    assert upstream.untested() == []


def test_versions_outside_of_the_range_are_told_with_it() -> None:
    told = upstream.untested({"trl": ">=0.1,<0.2", "pytest": ">=1", "no-such-distribution": ">=1"})
    assert len(told) == 1
    assert told[0].startswith("trl ")
    assert told[0].endswith(" (tested: >=0.1,<0.2)")


def test_a_run_warns_of_a_version_that_was_not_tested(run_config, tmp_path) -> None:
    info = tmp_path / "site" / "trl-9.0.dist-info"  # what pip would have left of another release
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: trl\nVersion: 9.0\n", encoding="utf-8")
    command = [sys.executable, "-m", "longline", "train", str(run_config(trainer={"max_steps": 1}))]
    environ = {**os.environ, "PYTHONPATH": str(info.parent)}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert f"trl 9.0 (tested: {TESTED['trl']})" in done.stdout


def test_importing_it_imports_none_of_the_libraries() -> None:
    script = f"import sys, longline.upstream as u; u.untested(); print(sorted({set(TESTED) | {'torch'}!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
