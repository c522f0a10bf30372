"""Runs the upstream tests against the newest and the oldest releases of the tested ranges: `tox run -e upstream`.

Each release is installed without its dependencies into a folder of its own, in front of the packages of the environment: torch and
everything else stay the ones of constraints.txt. Releases that the index does not have are named and left out.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from packaging.specifiers import SpecifierSet

from longline.upstream import TESTED

ROOT = Path(__file__).parents[1]
TESTS = ("core/tests/test_upstream.py", *map(str, sorted(ROOT.glob("plugins/*/tests/test_upstream.py"))))
TRAINING = (
    "core/tests/test_training.py::test_losses_equal_trl_at_every_one_of_20_steps",
    "core/tests/test_training.py::test_an_interrupted_and_resumed_run_ends_with_the_same_bits",
    "core/tests/test_training.py::test_adapters_reach_peft",
    "core/tests/test_methods.py::test_pairs_are_told_with_rewards_that_come_out_again",
    "core/tests/test_methods.py::test_kto_tells_labels_and_rewards",
    "core/tests/test_methods.py::test_answers_are_told_with_every_score_and_their_advantage",
    "core/tests/test_methods.py::test_lora_saves_the_tuned_adapter_alone",
    "core/tests/test_compact.py",
    "tests/test_distributed.py::test_two_ranks_have_the_losses_of_one",
)
"""A short training of each kind."""


def oldest(versions: str) -> str:
    """The release at the lower end of a range: `>=5.23,<5.25` is 5.23."""
    return next(item.version for item in SpecifierSet(versions) if item.operator == ">=")


def wanted(end: str) -> dict[str, str]:
    """What pip is asked for, by name: the lower end itself, or the range, of which pip takes the newest."""
    return {
        name: f"{name}=={oldest(versions)}" if end == "oldest" else f"{name}{versions}" for name, versions in TESTED.items()
    }


def install(end: str, folder: Path) -> list[str]:
    """Install one end of all ranges into `folder`; returns what the index does not have."""
    missing = []
    for requirement in wanted(end).values():
        pip = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--upgrade",
            "--target",
            str(folder),
            requirement,
        ]
        done = subprocess.run(pip, capture_output=True, text=True, check=False)
        if done.returncode:
            missing.append(requirement)
    return missing


def run(end: str, folder: Path, arguments: list[str]) -> int:
    """Run the tests with what is in `folder` before everything else."""
    environ = {**os.environ, "PYTHONPATH": str(folder)}
    show = "import sys; from importlib.metadata import version; print(*(f'{name} {version(name)}' for name in sys.argv[1:]))"
    print(f"{end}:", flush=True)
    subprocess.run([sys.executable, "-c", show, *TESTED], env=environ, check=True)
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *(arguments or [*TESTS, *TRAINING])], env=environ, cwd=ROOT, check=False
    ).returncode


def main(root: Path, arguments: list[str]) -> int:
    """The exit status is that of the first end whose tests fail."""
    statuses = []
    for end in ("newest", "oldest"):
        missing = install(end, root / end)
        if missing:
            print(f"{end}: the index has no {', '.join(missing)}; the environment's own is used", file=sys.stderr)
        statuses.append(run(end, root / end, arguments))
    return next((status for status in statuses if status), 0)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
