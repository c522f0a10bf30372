"""What `tox run -e densemixer` measured is of every mixture that transformers has, and is what page and plugin say."""

from __future__ import annotations

import json
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

from longline.testing import zoo
from longline_densemixer import needs, upstream

SPEC = spec_from_file_location("densemixer_matrix", Path(__file__).with_name("matrix.py"))
matrix = module_from_spec(SPEC)
SPEC.loader.exec_module(matrix)
RESULT = json.loads(matrix.RESULT.read_text(encoding="utf-8"))


def test_every_type_that_calls_experts_was_tried():
    parts = {name for name, why in zoo.missing(upstream.mixtures()).items() if "no class with a text loss" in why}
    tried = {*RESULT["types"], *RESULT["not built"], *matrix.NOT_CAUSAL, *zoo.NOT_TEXT}
    assert set(upstream.mixtures()) - parts <= tried
    assert len(RESULT["types"]) >= 60


def test_nothing_is_wrong_and_few_are_refused():
    assert matrix.wrong(RESULT) == []
    refused = {name for name, item in RESULT["types"].items() if any("refused" in row for row in item["variants"].values())}
    assert refused == {"phimoe", "longcat_flash"}


def test_page_and_plan_say_what_was_measured():
    page = matrix.PAGE.read_text(encoding="utf-8")
    assert page == matrix.with_table(page, RESULT)
    assert needs.measured().keys() == RESULT["types"].keys()
    for name, rows in needs.measured().items():
        found = [row.get("kinds") or row["refused"] for row in RESULT["types"][name]["variants"].values()]
        assert [row.get("kinds") or row["refused"] for row in rows] == found


def test_a_wrong_column_would_be_told():
    row = dict.fromkeys(matrix.COLUMNS, True) | {"lora": False, "kinds": ["softmax, plain"]}
    assert matrix.wrong({"types": {"mine": {"variants": {"as it is": row}}}}) == ["mine (as it is) lora"]
