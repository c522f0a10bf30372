"""The options: what they may be, and what is refused with the reason."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from longline_cce.config import CceConfig


def test_the_defaults():
    config = CceConfig()
    assert (config.impl, config.filter_eps, config.chunk_tokens) == ("auto", "high", None)
    assert not config.asks("filter_eps")


@pytest.mark.parametrize("value", [None, "auto", "high", 0.0, 1e-4, 0])
def test_filter_eps_may_be(value):
    config = CceConfig(impl="cce", filter_eps=value)
    assert config.filter_eps == value
    assert config.asks("filter_eps") == (value != "high")
    assert isinstance(config.filter_eps, (float, str, type(None)))


@pytest.mark.parametrize(
    "options",
    [
        {"impl": "CCE"},
        {"impl": None},
        {"filter_eps": "low"},
        {"filter_eps": -1e-3},
        {"filter_eps": float("nan")},
        {"filter_eps": float("inf")},
        {"filter_eps": True},
        {"filter_eps": "0.1"},
        {"chunk_tokens": 0},
        {"chunk_tokens": 1.5},
        {"chunk_tokens": "many"},
        {"chunk_size": 5},
    ],
)
def test_bad_values_are_refused(options):
    with pytest.raises(ValidationError):
        CceConfig(**options)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"impl": "chunked", "filter_eps": None}, "filter_eps belongs to impl: cce, not to impl: chunked"),
        ({"impl": "torch_compile", "filter_eps": "auto"}, "filter_eps belongs to impl: cce, not to impl: torch_compile"),
        ({"impl": "cce", "chunk_tokens": 5}, "chunk_tokens belongs to impl: chunked, not to impl: cce"),
        ({"accum_e_fp32": True}, "accum_e_fp32: cut-cross-entropy 25.1.1 has no such setting"),
        ({"accum_c_fp32": False, "filter_e_grad": True}, "accum_c_fp32, filter_e_grad: cut-cross-entropy 25.1.1 has no"),
    ],
)
def test_what_would_not_be_used_is_refused_by_name(options, text):
    with pytest.raises(ValidationError, match=text):
        CceConfig(**options)
