"""Names under `adapter:` that match nothing in the model are refused before the first step; those that match are trained."""

from __future__ import annotations

from copy import deepcopy

import pytest
from peft import LoraConfig

from longline.adapters.names import Names, misses
from longline.config.loader import load_config
from longline.errors import ConfigError, LonglineError
from longline.model import attach_adapter
from longline.testing import zoo
from longline.trainers.names import refuse_unmatched

DENSE = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
EXPERTS = (
    "the experts are parameters, no modules: target_parameters: [mlp.experts.gate_up_proj, mlp.experts.down_proj] trains them"
)


def missed(model_type="llama", **fields):
    """The misses that are found, and the adapted model where peft makes one."""
    model = zoo.build(model_type)
    names, config = Names.of(model), LoraConfig(r=2, **{"target_modules": ["q_proj"], **fields})
    asked = deepcopy(config)
    try:
        model = attach_adapter(model, config)
    except (LonglineError, Exception):
        model = None
    return [(".".join(map(str, place)), hint) for place, _, hint in misses(asked, config, names)], model


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"target_modules": ["q_proj", "v_prj"]}, [("target_modules.v_prj", "did you mean 'v_proj'?")]),
        ({"target_modules": "q_proj"}, [("target_modules.q_proj", "write [q_proj]: in a list the end of a name is enough")]),
        ({"target_modules": ".*(q_proj"}, [("target_modules..*(q_proj", None)]),
        ({"modules_to_save": ["lm_haed"]}, [("modules_to_save.lm_haed", "did you mean 'lm_head'?")]),
        ({"exclude_modules": ["k_prj"]}, [("exclude_modules.k_prj", "did you mean 'k_proj'?")]),
        ({"exclude_modules": "lm_haed"}, [("exclude_modules.lm_haed", "did you mean 'lm_head'?")]),
        (
            {"rank_pattern": {"k_proj": 3, "q_prj": 1}},
            [
                ("rank_pattern.k_proj", "it is there, and no target"),
                ("rank_pattern.q_prj", "did you mean 'q_proj'?"),
            ],
        ),
        ({"alpha_pattern": {"layers.7.self_attn.q_proj": 3}}, [("alpha_pattern.layers.7.self_attn.q_proj", None)]),
        ({"layers_to_transform": [0, 7]}, [("layers_to_transform.7", "there are 0 to 1")]),
        ({"layers_to_transform": 7}, [("layers_to_transform.7", "there are 0 to 1")]),
        ({"layers_to_transform": [0], "layers_pattern": "layer"}, [("layers_pattern.layer", "did you mean 'layers'?")]),
        ({"trainable_token_indices": [1, 256]}, [("trainable_token_indices.256", "there are 256, from 0")]),
        (
            {"trainable_token_indices": {"embed_token": [1]}},
            [("trainable_token_indices.embed_token", "did you mean 'embed_tokens'?")],
        ),
    ],
)
def test_a_name_that_matches_nothing_is_found(fields, found):
    seen, _ = missed(**fields)
    assert [place for place, _ in seen] == [place for place, _ in found]
    assert all(hint is None or hint == expected for (_, hint), (_, expected) in zip(found, seen, strict=True))


@pytest.mark.parametrize(
    "fields",
    [
        {"target_modules": "all-linear", "exclude_modules": ["lm_head"]},
        {"target_modules": r".*\.(q|v)_proj", "modules_to_save": ["lm_head", "layers.0.mlp"]},
        {"rank_pattern": {"q_proj": 2, r"layers\.1\..*": 1}, "alpha_pattern": {"layers.0.self_attn.q_proj": 2}},
        {"layers_to_transform": [1], "layers_pattern": ["layers"]},
        {"trainable_token_indices": {"embed_tokens": [0, 255]}},
        {"trainable_token_indices": [255]},
        {"exclude_modules": r".*layers\.0.*"},
        {"target_parameters": ["mlp.up_proj.weight"]},
    ],
)
def test_a_name_that_matches_is_not(fields):
    found, model = missed(**fields)
    assert (found, model is None) == ([], False)


@pytest.mark.parametrize("model_type", ["mixtral", "gpt_oss"])
def test_experts_that_are_parameters_are_named(model_type):
    found, _ = missed(model_type, target_modules=DENSE)
    assert found == [(f"target_modules.{name}", EXPERTS) for name in ("down_proj", "gate_proj", "up_proj")]
    found, model = missed(model_type, target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj"])
    assert not found
    assert any("experts" in name for name, parameter in model.named_parameters() if parameter.requires_grad)
    found, _ = missed(model_type, target_parameters=["mlp.experts.gate_up_prj"])
    assert found == [("target_parameters.mlp.experts.gate_up_prj", "did you mean 'mlp.experts.gate_up_proj'?")]


@pytest.mark.parametrize(("model_type", "names"), [("mixtral", ["q_proj", "w1", "w2", "w3"]), ("qwen3_moe", DENSE)])
def test_names_of_experts_that_peft_renames_are_no_misses(model_type, names):
    found, model = missed(model_type, target_modules=names)
    assert not found
    assert any("experts" in name for name, parameter in model.named_parameters() if parameter.requires_grad)


def test_all_are_told_at_once_with_their_places_and_no_step_is_made(run_config, run_longline, recwarn):
    adapter = {
        "type": "lora",
        "target_modules": ["q_proj", "v_prj"],
        "rank_pattern": {"k_proj": 2},
        "modules_to_save": ["lm_haed"],
    }
    path = run_config(adapter=adapter)
    with pytest.raises(ConfigError) as caught:
        run_longline(path)
    lines = path.read_text().splitlines()
    for problem, written in zip(caught.value.problems, ("v_prj", "lm_haed", "k_proj"), strict=True):
        name, line, _ = problem.where.split(":")
        assert (name, written in lines[int(line) - 1]) == (str(path), True)
    assert not [warning for warning in recwarn if "pattern" in str(warning.message)]


def test_experts_that_all_linear_leaves_out_are_told(run_longline, tmp_path, tiny_model_dir, capsys):
    from longline.testing import tiny_tokenizer

    tokenizer, folder = tiny_tokenizer(), tmp_path / "moe"
    zoo.build("gpt_oss", vocab_size=len(tokenizer), max_position_embeddings=256).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for extra in ({}, {"target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"], "lora_dropout": 0.0}):
        model, output = {"path": str(folder)}, str(tmp_path / f"run{len(extra)}")
        run_longline(model=model, adapter={"type": "lora", **extra}, trainer={"max_steps": 1}, output_dir=output)
        assert ("the experts get no adapter" in capsys.readouterr().out) is not bool(extra)


def test_what_fsdp_wraps_and_some_optimizers_train_must_be_there(run_config):
    model = zoo.build("llama")

    def problems(**trainer):
        loaded = load_config(run_config(trainer=trainer))
        try:
            refuse_unmatched(loaded, model)
        except ConfigError as error:
            return [(problem.path, problem.hint) for problem in error.problems]
        return []

    layer = {"transformer_layer_cls_to_wrap": ["LamaDecoderLayer"]}
    path = "trainer.fsdp_config.transformer_layer_cls_to_wrap"
    assert problems(fsdp=True, fsdp_config=layer) == [(path, "did you mean 'LlamaDecoderLayer'?")]
    assert problems(fsdp=True, fsdp_config={"transformer_layer_cls_to_wrap": "LlamaDecoderLayer"}) == []
    found = problems(optim="galore_adamw", optim_target_modules=["q_proj", "v_prj"])
    assert found == [("trainer.optim_target_modules", "did you mean 'v_proj'?")]
    assert problems(optim="galore_adamw", optim_target_modules=["attn", r".*mlp.*"]) == []
    assert problems(optim="galore_adamw", optim_target_modules="all-linear") == []
