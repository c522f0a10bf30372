"""What `longline new plugin|method|format` writes passes its own lint and types, under any name.

    python tests/templates.py

Its tests are run by tests/test_examples.py, out of wheels. That a strict author can import every public name is seen here as well.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from longline.cli import scaffold

ROOT = Path(__file__).resolve().parents[1]
NAMES = ("eel", "tide-watch", "a_name_that_says_all_there_is_to_say")


def main() -> int:
    """Write every template under every name, and look at each; returns the exit status.

    mypy reads torch and transformers first, so it runs once for each template, and what it learns is kept beside.
    """
    failed = []
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("plugin", "method", "format"):
            for name in NAMES:
                place = Path(folder) / f"{kind}-{name}"
                for path, text in scaffold.written(kind, name):
                    (place / path).parent.mkdir(parents=True, exist_ok=True)
                    (place / path).write_text(text, encoding="utf-8")
                commands = [("ruff", "check", "."), ("ruff", "format", "--check", "--diff", ".")]
                failed += [f"{kind} {name}: {' '.join(command)}" for command in commands if not passes(place, *command)]
            next(place.glob("src/*/__init__.py")).with_name("public.py").write_text(imports())
            failed += [] if passes(place, "mypy") else [f"{kind} {name}: mypy"]
    print("\n".join(failed) or f"{3 * len(NAMES)} distributions are in order")
    return 1 if failed else 0


def imports() -> str:
    """A module that imports every name that docs/public.toml gives."""
    modules = tomllib.loads((ROOT / "docs" / "public.toml").read_text(encoding="utf-8"))["module"]
    lines = [
        f"from {module['name']} import {name} as _{place}_{name}"  # two modules may call different things alike
        for place, module in enumerate(modules)
        for name in module.get("names", ())
    ]
    return '"""Every public name."""\n\n' + "\n".join(lines) + "\n"


def passes(folder: Path, *command: str) -> bool:
    """Whether a tool finds nothing in a folder; what it finds is printed."""
    own = {"MYPY_CACHE_DIR": str(folder.parent / "types")}
    program = [sys.executable, "-m", *command]
    done = subprocess.run(program, cwd=folder, env={**os.environ, **own}, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"{folder.name}: {' '.join(command)}\n{done.stdout}{done.stderr}", file=sys.stderr)
    return done.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
