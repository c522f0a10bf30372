"""Each kernel computes what plain PyTorch does, or is named as one that the interpreter cannot run."""

from __future__ import annotations

import pytest
from kernels import KERNELS, state

UNVERIFIED = {"swiglu of experts": "0 active drivers"}


@pytest.mark.parametrize("name", KERNELS)
def test_value_and_gradients(name):
    found = state(name)
    if name in UNVERIFIED:
        assert found.startswith("unverified:")
        assert UNVERIFIED[name] in found
    else:
        assert found == "same"


def test_a_wrong_kernel_would_be_noticed():
    ours, plain, inputs = KERNELS["rms_norm"]()
    KERNELS["broken"] = lambda: ((lambda x, w: ours(x, w) * 1.001), plain, inputs)
    try:
        assert state("broken").startswith("wrong: the value is off by 1.0e-03")
    finally:
        del KERNELS["broken"]
