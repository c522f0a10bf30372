"""A model and rows to try something with: `python -m longline.testing FOLDER`."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

try:
    from longline.testing.tiny import chat, preferences, write_tiny_model
except ModuleNotFoundError as missing:
    if missing.name != "pytest":
        raise
    sys.exit("error: the test kit is a plugin of pytest, which is not installed; pip install pytest")


def main() -> None:
    """Write a random model of two layers, conversations and pairs of answers, as the fixtures of the kit have them."""
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit(
            "usage: python -m longline.testing FOLDER\n\nWrites FOLDER/model, FOLDER/chat.jsonl and FOLDER/preferences.jsonl."
        )
    folder = Path(sys.argv[1])
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, rows in (("chat", chat(32)), ("preferences", preferences(32))):
            (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    except OSError as error:
        sys.exit(f"error: cannot write into {folder}: {error.strerror or error}")
    os.environ["TQDM_DISABLE"] = "1"
    write_tiny_model(folder / "model")
    print(f"wrote {folder / 'model'}, {folder / 'chat.jsonl'}, {folder / 'preferences.jsonl'}")  # noqa: T201 - it is a command


if __name__ == "__main__":
    main()
