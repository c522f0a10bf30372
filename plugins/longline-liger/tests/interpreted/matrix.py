"""Which kernels are applied to which model types, and whether loss and gradients stay the same: measured, one model at a time.

    cd plugins/longline-liger/tests/interpreted
    TRITON_INTERPRET=1 python matrix.py           # measure all, about five minutes
    TRITON_INTERPRET=1 python matrix.py --write   # and write matrix.json
    python matrix.py --docs                       # write the tables of the docs from matrix.json

A state is `same` (loss within 1e-5, gradients within 1e-4, on a padded and a packed batch), `unreached` (applied, to a part that
text does not go through), `unverified: why` (applied, and Triton's interpreter cannot run it), `wrong: how`, or `no: why`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from longline.testing import zoo
from longline_liger import applied, dispatch, interpreter, upstream
from longline_liger.config import LOSSES
from longline_liger.patches import ProcessPatches
from longline_liger.refusals import WRONG

HERE = Path(__file__).parents[1]
RESULT = HERE / "matrix.json"
DOCS = HERE.parents[2] / "docs" / "plugins" / "liger.md"
LOSS, GRADIENT = 1e-5, 1e-4
CANNOT = ("0 active drivers", "InterpreterError")
"""How the interpreter says that it cannot run a kernel."""


def types() -> list[str]:
    """Every type that Liger knows and that transformers can take a text loss of."""
    missing = zoo.missing(upstream.functions())
    return [name for name in upstream.functions() if name not in missing]


def measure(model_type: str, *, run: bool = True) -> dict[str, str]:
    """The state of each kernel of a type; `run` False only applies them, and leaves out the word that needs a step."""
    model = zoo.build(model_type)
    found = dispatch.find(model.config)
    assert found is not None
    try:
        found.call(None)
    except ImportError as error:
        return {"": f"no: {error.msg.partition(' (')[0]}"}
    plain = {name: step(model, batch) for name, batch in zoo.batches(model).items()} if run else {}
    states = {kernel: _state(model_type, kernel, found, plain) for kernel in found.advice}
    if run and states.get("fused_linear_cross_entropy") == "same":
        states["use_token_scaling"] = _scaling(model, found)
    return states


def _scaling(model: Any, found: dispatch.Dispatch) -> str:
    """Whether the option reaches the loss, on the padded batch: each token's loss times its probability."""
    import torch

    patches = ProcessPatches()
    batch = zoo.batches(model)["padded"]
    labels = batch["labels"][:, 1:]
    with torch.no_grad():
        logits = model(**{name: value for name, value in batch.items() if name != "labels"}).logits[:, :-1]
        losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), labels, reduction="none")
        expected = (losses * (-losses).exp() * (labels != -100)).sum() / 37
        applied.apply(model, ["fused_linear_cross_entropy"], found, patches)
        with interpreter.complete():
            got = model(**batch, num_items_in_batch=torch.tensor(37), use_token_scaling=True).loss
    patches.undo()
    error = abs(float((got - expected) / expected))
    return "same" if error < LOSS else f"wrong: the loss is off by {error:.1e}"


def _state(model_type: str, kernel: str, found: dispatch.Dispatch, plain: dict[str, Any]) -> str:
    model, patches = zoo.build(model_type), ProcessPatches()
    try:
        result = applied.apply(model, [kernel], found, patches)[0]
        if not result.done:
            return f"no: {result.why}"
        if not plain:
            return ", ".join(result.places)
        reached: set[str] = set()
        for module in result.modules:
            module.register_forward_hook(lambda *_: reached.add("yes"))
        with interpreter.complete():
            for name, batch in zoo.batches(model).items():
                wrong = difference(plain[name], step(model, batch))
                if wrong:
                    return f"wrong: {name}: {wrong}"
    except Exception as error:  # a kernel that fails is a result
        text = f"{type(error).__name__}: {' '.join(str(error).split())[-160:]}"
        return f"{'unverified' if any(word in text for word in CANNOT) else 'wrong'}: {text}"
    else:
        return "same" if reached or "loss_function" in result.places else "unreached"
    finally:
        patches.undo()


def step(model: Any, batch: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Loss and gradients of one batch."""
    import torch

    model.zero_grad()
    loss = model(**batch, num_items_in_batch=torch.tensor(37)).loss
    loss.backward()
    return loss.detach(), {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


def difference(expected: tuple[Any, dict[str, Any]], got: tuple[Any, dict[str, Any]]) -> str:
    """What is not the same, or nothing. Next to nothing is compared with what float32 can tell beside the largest gradient."""
    error = abs(float((got[0] - expected[0]) / expected[0]))
    if error > LOSS:
        return f"the loss is off by {error:.1e}"
    if set(got[1]) != set(expected[1]):
        return f"no gradient for {', '.join(sorted(set(expected[1]) ^ set(got[1])))}"
    floor = 1e-3 * max(float(gradient.norm()) for gradient in expected[1].values())
    errors = {
        name: float((got[1][name] - gradient).norm()) / max(float(gradient.norm()), floor)
        for name, gradient in expected[1].items()
    }
    worst = max(errors, key=lambda name: errors[name])
    return f"the gradient of {worst} is off by {errors[worst]:.1e}" if errors[worst] > GRADIENT else ""


# --- the docs -----------------------------------------------------------------------------------------------------------------


MARKS = {"same": "yes", "unreached": "pictures", "unverified": "unverified", "wrong": "refused", "no": "-"}
COLUMNS = ("rope", "rms_norm", "layer_norm", "swiglu", "geglu", "relu_squared", *reversed(LOSSES), "use_token_scaling")
BEGIN, END = "<!-- begin generated: tests/interpreted/matrix.py --docs -->", "<!-- end generated -->"


def tables(result: dict[str, Any]) -> str:
    """The generated part of the docs: model types and kernels, refused types, and what the interpreter ran or could not."""
    states: dict[str, dict[str, str]] = result["types"]
    columns = [*COLUMNS, *sorted({name for row in states.values() for name in row if name} - set(COLUMNS))]
    lines = [f"| model type | {' | '.join(columns)} |", f"|{'---|' * (len(columns) + 1)}"]
    for name, row in sorted(states.items()):
        marks = [MARKS[row[kernel].partition(":")[0]] if kernel in row else "" for kernel in columns]
        lines += [] if "" in row else [f"| {name} | {' | '.join(marks)} |"]
    broken = [f"- `{name}`: {row[''].removeprefix('no: ')}" for name, row in sorted(states.items()) if "" in row]
    lines += ["", "Refused with this release of transformers, since liger-kernel imports what it does not have:", "", *broken]
    wrong = [f"- `{kernel}` for `{name}`: {why}" for (name, kernel), why in sorted(WRONG.items())]
    lines += ["", "Refused because the tests found them wrong:", "", *wrong]
    kernels = sorted(result["kernels"].items())
    same = ", ".join(f"`{name}`" for name, state in kernels if state == "same")
    lines += ["", f"Verified in Triton's interpreter, value and gradients against plain PyTorch: {same}.", ""]
    rest = [f"- `{name}`: {state.partition(': ')[2]}" for name, state in kernels if state != "same"]
    lines += ["Unverified, because the interpreter cannot run them:", "", *rest]
    used = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    return "\n".join([*lines, "", f"Measured with {used}."])


def with_tables(page: str) -> str:
    """The page with its generated part made anew."""
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{tables(json.loads(RESULT.read_text(encoding='utf-8')))}\n\n{END}{rest.partition(END)[2]}"


def main() -> None:
    """Measure all and print what is not the same, or write the docs from what was measured."""
    if "--docs" in sys.argv:
        DOCS.write_text(with_tables(DOCS.read_text(encoding="utf-8")), encoding="utf-8")
        return
    from kernels import measure_kernels

    result = {"kernels": measure_kernels(), "types": {name: measure(name) for name in types()}, "versions": versions()}
    for name, row in result["types"].items():
        print(name, {kernel: state for kernel, state in row.items() if state != "same"})
    if "--write" in sys.argv:
        RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def versions() -> dict[str, str]:
    """What was measured with."""
    from importlib.metadata import version

    return {name: version(name) for name in ("liger-kernel", "triton", "transformers", "torch")}


if __name__ == "__main__":
    main()
