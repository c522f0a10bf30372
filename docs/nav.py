"""A hook of mkdocs: the section "Plugins" has a page for each plugin, under its name, and nobody needs to list them."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def on_config(config: Any) -> None:
    """Add docs/plugins/*.md to the navigation."""
    folder = Path(config.docs_dir)
    [section] = [item["Plugins"] for item in config.nav if isinstance(item, dict) and "Plugins" in item]
    pages = {path.stem: path.relative_to(folder).as_posix() for path in sorted((folder / "plugins").glob("*.md"))}
    section.extend({name: page} for name, page in pages.items() if page not in section)
