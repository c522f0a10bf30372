"""Recipes of LLMCompressor: what keeps zeros is applied, and anything else is refused by name, before a model is loaded."""

from __future__ import annotations

import pytest
import yaml
from safetensors.torch import load_file

from longline import LonglineError
from longline.cli import run_cli
from longline_sparsity import recipe
from longline_sparsity.config import SparsityConfig

NAMES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
PUBLISHED = {
    "finetuning_stage": {
        "finetuning_modifiers": {
            "ConstantPruningModifier": {"targets": [f"re:.*{name}.weight" for name in NAMES], "start": 0},
        }
    }
}
"""What axolotl's documentation shows."""


def of(**fields):
    return {"a_stage": {"run_type": "train", "pruning_modifiers": {"ConstantPruningModifier": fields}}}


@pytest.mark.parametrize("form", ["mapping", "file", "text"])
def test_the_published_recipe_keeps_the_zeros_of_its_targets(run_longline, pruned, tmp_path, form):
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(PUBLISHED))
    given = {"mapping": PUBLISHED, "file": str(tmp_path / "recipe.yaml"), "text": yaml.safe_dump(PUBLISHED)}[form]
    folder = pruned()
    made = {"model": {"path": str(folder)}, "trainer": {"max_steps": 3}, "plugins": [{"sparsity": {"recipe": given}}]}
    outcome = run_longline(**made)
    assert outcome.manifest["plan"]["sparsity"].startswith("keeps 50.00% zeros in 14 tensors, 2:4")
    before, after = (load_file(path / "model.safetensors") for path in (folder, outcome.output_dir / "model"))
    assert all(not after[name][before[name] == 0].any() for name in before if "_proj" in name)
    assert run_cli(["check", str(outcome.output_dir / "config.yaml")]) == 0


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (of(targets="Linear"), recipe.Kept(("Linear",))),
        (of(targets="__ALL_PRUNABLE__", start=0.0, end=-1), recipe.Kept(None)),
        (of(targets=["q_proj", "re:.*mlp.*"], end=2), recipe.Kept(("q_proj", "re:.*mlp.*"), 2)),
        ({"pruning_modifiers": {"ConstantPruningModifier": {"targets": "Linear"}}}, recipe.Kept(("Linear",))),
    ],
)
def test_what_a_recipe_says(content, expected):
    assert recipe.read(SparsityConfig(recipe=content)) == expected


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (
            {"s_stage": {"m_modifiers": {"MagnitudePruningModifier": {}}}},
            "MagnitudePruningModifier of the recipe is not applied",
        ),
        (
            {"s_stage": {"m_modifiers": {"SparseGPTModifier": {}, "ConstantPruningModifier": {}}}},
            "SparseGPTModifier of the recipe",
        ),
        ({"s_stage": {}}, "has no ConstantPruningModifier"),
        ({}, "has no ConstantPruningModifier"),
        ({"s_stage": 3}, "s_stage in the recipe is neither a stage"),
        (of(), "targets of ConstantPruningModifier must be names"),
        (of(targets=[1]), "targets of ConstantPruningModifier must be names"),
        (of(targets="Linear", start=1), r"starts at epoch 1: until then training fills the zeros[\s\S]*start: 0"),
        (of(targets="Linear", end=0), "ends at epoch 0, before anything is trained"),
        (of(targets="Linear", end="soon"), "end of ConstantPruningModifier must be a number of epochs"),
        (of(targets="Linear", strat=0), r"has no strat here[\s\S]*did you mean 'start'"),
    ],
)
def test_what_is_not_applied_is_refused(content, text):
    with pytest.raises(LonglineError, match=text):
        recipe.read(SparsityConfig(recipe=content))


@pytest.mark.parametrize(
    ("written", "text"),
    [
        (None, "cannot be read: No such file"),
        ("a_stage: [", "is no YAML that LLMCompressor reads"),
        ("a_stage: !Modifier {}", "is no YAML that LLMCompressor reads"),
        ("", "holds no mapping of stages"),
        (
            "s_stage: {m_modifiers: {WandaPruningModifier: {sparsity: 0.5}}}",
            "WandaPruningModifier of the recipe is not applied",
        ),
    ],
)
def test_check_reads_the_file_and_names_the_place(run_config, tmp_path, capsys, written, text):
    if written is not None:
        (tmp_path / "recipe.yaml").write_text(written)
    config = run_config(plugins=[{"sparsity": {"recipe": str(tmp_path / "recipe.yaml")}}])
    assert run_cli(["check", str(config)]) == 3
    told = capsys.readouterr().err
    assert "plugins.sparsity.recipe: not applied" in told
    assert text in told


def test_recipe_and_targets_exclude_each_other():
    with pytest.raises(ValueError, match="recipe and targets both say"):
        SparsityConfig(recipe=PUBLISHED, targets=["q_proj"])


def test_text_that_is_no_recipe_is_refused():
    with pytest.raises(ValueError, match="no YAML that LLMCompressor reads"):
        SparsityConfig(recipe="a_stage:\n  b_modifiers: [\n")


def test_zeros_are_let_go_at_the_recipes_end(run_longline, run_config, pruned, capsys):
    """16 steps are an epoch here, and the recipe holds zeros for half of one."""
    folder = pruned()
    given = {"model": {"path": str(folder)}, "plugins": [{"sparsity": {"recipe": of(targets="q_proj", end=0.5)}}]}
    outcome = run_longline(**given, trainer={"max_steps": 12, "num_train_epochs": 1})
    shares = [event["sparsity/zeros"] for event in outcome.log if "sparsity/zeros" in event]
    assert shares[:8] == [0.5] * 8
    assert max(shares[8:]) < 0.1
    assert run_cli(["plan", str(run_config(**given))]) == 0
    assert "lets go of them at epoch 0.5" in " ".join(capsys.readouterr().out.split())


LISTED = "plugins: [axolotl.integrations.llm_compressor.LLMCompressorPlugin]\n"


def test_axolotls_recipe_is_taken_over(convert_axolotl):
    lines = LISTED + yaml.safe_dump({"llmcompressor": {"recipe": PUBLISHED, "save_compressed": True}})
    plugins, told = convert_axolotl(lines)
    assert plugins == {"sparsity": {"recipe": PUBLISHED}}
    assert "save_compressed: true; nearest: whole weights with their zeros" in told
