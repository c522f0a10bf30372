"""Tests below `interpreted` need TRITON_INTERPRET=1 before anything imports Triton: test_interpreted.py gives them a process."""

from __future__ import annotations

import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
collect_ignore_glob = [] if os.environ.get("TRITON_INTERPRET") == "1" else ["interpreted/*"]
sys.path.insert(0, str(HERE / "interpreted"))
