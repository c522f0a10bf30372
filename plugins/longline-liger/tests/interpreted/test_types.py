"""Loss and gradients of whole models with one kernel each; all types are measured by matrix.py, here those that are held to it."""

from __future__ import annotations

import json

import pytest
from matrix import RESULT, difference, measure, step

from longline.testing import zoo
from longline_liger import applied, dispatch, interpreter
from longline_liger.patches import ProcessPatches
from longline_liger.refusals import WRONG

CHECKED_IN = json.loads(RESULT.read_text(encoding="utf-8"))["types"]
HELD = ["llama", "qwen2", "gemma2"]


@pytest.mark.parametrize("model_type", HELD)
def test_every_kernel_of_a_type_leaves_loss_and_gradients_the_same(model_type):
    states = measure(model_type)
    assert states == CHECKED_IN[model_type]
    assert set(states.values()) == {"same"}
    assert len(states) == 6  # with use_token_scaling


@pytest.mark.parametrize("model_type", HELD)
def test_all_kernels_together(model_type):
    model, patches = zoo.build(model_type), ProcessPatches()
    found = dispatch.find(model.config)
    kernels = [name for name, on in found.advice.items() if on]
    expected = {name: step(model, batch) for name, batch in zoo.batches(model).items()}
    try:
        assert all(item.done for item in applied.apply(model, kernels, found, patches))
        with interpreter.complete():
            for name, batch in zoo.batches(model).items():
                assert difference(expected[name], step(model, batch)) == ""
    finally:
        patches.undo()


@pytest.mark.parametrize(("model_type", "kernel"), sorted(WRONG))
def test_what_is_refused_as_wrong_still_is(model_type, kernel):
    state = measure(model_type)[kernel]
    assert state.startswith("wrong: "), f"repaired: take it out of refusals.py ({state})"


def test_what_matrix_found_wrong_is_refused():
    wrong = {(name, kernel) for name, row in CHECKED_IN.items() for kernel, state in row.items() if state.startswith("wrong")}
    assert wrong == set(WRONG)
