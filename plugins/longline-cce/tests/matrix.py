"""The support matrix: the loss of this plugin beside the model's own, for every model type that it names.

    python plugins/longline-cce/tests/matrix.py            # compares with matrix.json; exit status 1 when a type is not as it says
    python plugins/longline-cce/tests/matrix.py --write    # writes it, and the table for the docs with it

Each type is a tiny random model of `longline.testing.zoo` in float32, with the head as it is by default and with whatever
else the type has: tied or not, a bias, softcapped logits. One padded and one packed batch each; the loss must agree to 1e-5
of it, and the gradient of every parameter to 1e-4 of its largest number.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

RESULT = Path(__file__).with_name("matrix.json")
LOSS, GRADIENT = 1e-5, 1e-4
"""What is allowed, relative."""
TYPES = tuple(
    """
    afmoe apertus arcee cohere cohere2 deepseek_v3 exaone4 gemma gemma2 gemma3 gemma3_text gemma3n gemma3n_text gemma4 glm
    glm4 glm4_moe glm4_moe_lite glm46v glm4v glm4v_moe glm_image glm_moe_dsa gpt_oss granite granitemoe granitemoehybrid
    granitemoeshared hunyuan_v1_dense hunyuan_v1_moe internvl kimi_linear lfm2 lfm2_moe lfm2_vl llama llama4 llama4_text
    llava ministral ministral3 mistral mistral3 mistral4 mixtral mllama nemotron_h olmo olmo2 olmo3 olmoe phi phi3
    phi4_multimodal qwen2 qwen2_5_vl qwen2_moe qwen2_vl qwen3 qwen3_5 qwen3_5_text qwen3_5_moe qwen3_5_moe_text qwen3_moe
    qwen3_next qwen3_vl qwen3_vl_moe seed_oss smollm3 step3p5 voxtral
    """.split()  # noqa: SIM905
)
"""The model types that this plugin's loss is promised for."""
CHUNK = 5
"""Tokens in a chunk: fewer than a batch has, and no divisor of them."""


def measure() -> dict[str, Any]:
    """The whole matrix: for each type its class and its rows, and the types that cannot be built with the reason."""
    from longline.testing import zoo

    missing = zoo.missing(TYPES)
    return {"types": {name: of_type(name) for name in TYPES if name not in missing}, "missing": missing}


def of_type(model_type: str) -> dict[str, Any]:
    """One type: what was compared, each with `ok`; numbers that differ between machines are left out."""
    from longline.testing import zoo

    rows = {}
    for name, settings in variants(model_type).items():
        model = zoo.build(model_type, **settings)
        rows[name] = {batch: within(compare(model, tensors)) for batch, tensors in zoo.batches(model).items()}
    return {"class": type(model).__name__, "variants": rows}


def variants(model_type: str) -> dict[str, dict[str, Any]]:
    """Settings that change the head or what comes after it, as far as the type has them: name -> settings of its config."""
    from longline.testing import zoo

    config = zoo.tiny_config(zoo.WHOLES.get(model_type, model_type))
    text = config.get_text_config()
    model = zoo.build(model_type)
    names = {True: "tied", False: "bias" if getattr(model.get_output_embeddings(), "bias", None) is not None else "untied"}
    found: dict[str, dict[str, Any]] = {names[tied(model)]: {}}
    other = {"tie_word_embeddings": not tied(model)}
    if tied(zoo.build(model_type, **other)) != tied(model):
        found[{True: "untied", False: "tied"}[tied(model)]] = other
    if hasattr(text, "final_logit_softcapping"):
        found["softcap 2"] = {"final_logit_softcapping": 2.0}
    for name, value in (("logit_scale", 0.3), ("logits_scaling", 4.0), ("output_multiplier", 0.3), ("lm_head_multiplier", 0.3)):
        if hasattr(text, name):
            found[f"{name} {value}"] = {name: value}
    return found


def tied(model: Any) -> bool:
    """Whether head and embedding are one."""
    return model.get_output_embeddings().weight is model.get_input_embeddings().weight


def compare(model: Any, batch: dict[str, Any], choice: Any = None) -> tuple[float, float, int]:
    """Relative difference of the loss, the largest one of any parameter's gradient, and how many parameters have one."""
    from longline_cce.applied import HeadLoss
    from longline_cce.choice import Choice
    from longline_cce.config import CceConfig

    plain, expected = run(model, batch)
    loss = HeadLoss(model, CceConfig())
    loss.choice = choice or Choice("chunked", "", {"tokens": CHUNK})
    with loss.tap.armed(batch["labels"]):
        ours, found = run(model, batch)
    loss.tap.remove()
    if expected.keys() != found.keys():
        return abs(plain - ours) / plain, float("inf"), len(found)
    off = [float((expected[name] - found[name]).abs().max() / expected[name].abs().max().clamp(min=1e-6)) for name in expected]
    return abs(plain - ours) / plain, max(off), len(found)


def run(model: Any, batch: dict[str, Any]) -> tuple[float, dict[str, Any]]:
    """The loss, and the gradients of all parameters that have one."""
    model.zero_grad(set_to_none=True)
    loss = model(**batch, use_cache=False).loss
    loss.backward()
    return loss.item(), {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


def within(measured: tuple[float, float, int]) -> bool:
    """Whether loss and gradients agree."""
    return measured[0] <= LOSS and measured[1] <= GRADIENT and measured[2] > 3


def markdown(result: dict[str, Any]) -> str:
    """The matrix as a table of Markdown."""
    lines = ["| model type | class | padded | packed | heads compared |", "| --- | --- | --- | --- | --- |"]
    for name, row in sorted(result["types"].items()):
        good = {batch: all(variant[batch] for variant in row["variants"].values()) for batch in ("padded", "packed")}
        padded, packed = ("yes" if good[batch] else "no" for batch in ("padded", "packed"))
        lines.append(f"| `{name}` | `{row['class']}` | {padded} | {packed} | {', '.join(row['variants'])} |")
    lines += [f"| `{name}` | none | | | not there: {why} |" for name, why in sorted(result["missing"].items())]
    return "\n".join(lines)


def main() -> int:
    """Measure; write or compare."""
    result = measure()
    text = json.dumps(result, indent=1) + "\n"
    if "--write" in sys.argv:
        RESULT.write_text(text, encoding="utf-8")
    bad = [name for name, row in result["types"].items() if not all(all(v.values()) for v in row["variants"].values())]
    print(
        f"{len(result['types'])} types, {len(bad)} differ: {', '.join(bad) or 'none'}; missing: {result['missing'] or 'none'}"
    )
    return int(bool(bad) or RESULT.read_text(encoding="utf-8") != text)


if __name__ == "__main__":
    sys.exit(main())
