"""Every mixture of experts that the installed transformers has: with all experts let in, beside the plain model and a closed form.

    python plugins/longline-densemixer/tests/matrix.py            # all types; exit status 1 when one is not as matrix.json says
    python plugins/longline-densemixer/tests/matrix.py --write    # writes it, the plugin's kinds.json, the README's table

The types are those whose source calls its experts by the uniform interface. Each is a tiny random model of
`longline.testing.zoo`. The closed form is written out here: y + sum over experts that were not picked of
(w - stop(w)) * stop(E(x)), by autograd, expert by expert, in float64.
"""

from __future__ import annotations

import json
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from longline_densemixer import layers, upstream

RESULT = Path(__file__).with_name("matrix.json")
PAGE = Path(__file__).parents[1] / "README.md"
KINDS = Path(layers.__file__).with_name("kinds.json")
BEGIN, END = "<!-- begin generated: tests/matrix.py --write -->", "<!-- end generated -->"
PAIRS = 7
"""Pairs of token and expert at once: fewer than a batch has, and no divisor of them."""
EXACT, NEAR = 1e-5, 2e-4
"""What is allowed, relative to the largest number of a gradient: in float64 with routers in float32, and in float32."""
GEMMA = {"enable_moe_block": True, "num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 32}
QSA = {"indexer_n_heads": 4, "indexer_kv_heads": 1, "indexer_head_dim": 16, "indexer_budget": 8, "indexer_compress_ratio": 2}
SETTINGS: dict[str, dict[str, Any]] = {
    "deepseek_ocr2": {
        "mlp_layer_types": ["dense", "sparse"],
        "n_group": 1,
        "topk_group": 1,
        "num_experts_per_tok": 2,
        "head_dim": 16,
    },
    "dots1": {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1},
    "flint": {"mlp_only_layers": [], "layer_types": ["full_attention", "sliding_attention"]},
    "gemma4": GEMMA,
    "gemma4_text": GEMMA,
    "longcat_flash": {"head_dim": 8, "num_layers": 1, "zero_expert_num": 2, "moe_topk": 3},
    **dict.fromkeys(("qwen4_exp", "qwen4_exp_text"), QSA),
    "zaya": {"num_experts_per_tok": 1},
}
"""What a type needs to have experts when it is tiny."""
OTHERS = {"norm_topk_prob": (True, False), "expert_selection_fn": ("softmax", "sigmoid")}
"""Fields of a config that change what a router does, and their values."""
NOT_CAUSAL = ("nllb-moe", "switch_transformers", "diffusion_gemma", "diffusion_gemma_text")
"""Types that no causal language model is: encoders with decoders, and diffusion."""
COLUMNS = ("forward", "router", "experts", "eager", "batched_mm", "grouped_mm", "checkpointing", "lora", "bfloat16", "fsdp2")


# --- models -----------------------------------------------------------------------------------------------------------------------


def types() -> dict[str, str]:
    """The types that can be built and run on text, with nothing, and those that cannot, with the reason."""
    from longline.testing import zoo

    found = {}
    for name in upstream.mixtures():
        if name in NOT_CAUSAL or "no class with a text loss" in zoo.missing([name]).get(name, "") or name in zoo.NOT_TEXT:
            continue  # a tower, or a part of another type
        try:
            model = build(name)
            model(**zoo.batches(model)["padded"], use_cache=False)
            found[name] = ""
        except Exception as error:  # whatever a config says of sizes that do not fit together
            found[name] = " ".join(f"{type(error).__name__}: {error}".split())[:120]
    return found


def build(name: str, **settings: Any) -> Any:
    """A tiny model in training mode, float32, eager experts."""
    from longline.testing import zoo

    model = zoo.build(name, **SETTINGS.get(name, {}), **settings)
    implement(model, "eager")
    for module in model.modules():
        if hasattr(module, "tid2eid"):  # picks by a table: which experts a token goes to
            chance = torch.rand(len(module.tid2eid), module.num_experts, generator=torch.Generator().manual_seed(0))
            module.tid2eid.copy_(chance.topk(module.top_k).indices)
    return model


def implement(model: Any, name: str) -> None:
    """Choose an implementation of experts, for every part."""
    for module in model.modules():
        if upstream.implementation(module) is not None:
            module.config._experts_implementation = name


def variants(name: str) -> list[dict[str, Any]]:
    """Settings under which the router does something else, its default first."""
    text = build(name).config.get_text_config()
    found: list[dict[str, Any]] = [{}]
    for field, values in OTHERS.items():
        found += [{field: value} for value in values if hasattr(text, field) and getattr(text, field) != value]
    return found


# --- comparing --------------------------------------------------------------------------------------------------------------------


Run = tuple[Any, dict[str, Any]]
Sharded = Callable[[str, dict[str, Any]], bool]


def run(model: Any, batch: dict[str, Any]) -> Run:
    """Logits, and the gradients of all parameters that have one."""
    model.zero_grad(set_to_none=True)
    torch.manual_seed(0)
    out = model(**batch, use_cache=False)
    out.loss.backward()
    return out.logits.detach(), {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}


@contextmanager
def let_in(model: Any, pairs: int = PAIRS) -> Iterator[list[layers.Layer]]:
    """While it lasts, all experts are let in, as the plugin does."""
    found = layers.find(model, pairs, None)
    for layer in found:
        layer.attach()
    try:
        if why := layers.probe(model, found):
            raise AssertionError(why)
        yield found
    finally:
        for layer in found:
            layer.detach()


@contextmanager
def closed_form(model: Any, kinds: dict[str, str]) -> Iterator[None]:
    """While it lasts, a mixture adds (w - stop(w)) * stop(E(x)) of what was not picked, each expert by itself and by autograd."""
    handles, inside = [], []

    def of(block: Any, kind: str, seen: dict[str, Any]) -> Any:
        def hook(module: Any, args: Any, kwargs: Any, output: Any) -> Any:
            if inside:
                return None
            hidden, index, own = (*args, *kwargs.values())
            logits = seen["logits"].reshape(len(index), -1)
            weights, extra = every_weight(kind, logits, index, own, block), 0
            inside.append(True)
            for expert in range(getattr(module, "num_experts", None) or logits.shape[1]):
                with torch.no_grad():
                    every = torch.full_like(index[:, :1], expert)
                    alone = module(hidden.flatten(0, -2), every, torch.ones_like(own[:, :1])).reshape(len(index), -1)
                    mine = ((index == expert) & (own != 0)).any(-1, keepdim=True)
                weight = weights[:, expert, None]
                extra = extra + ((weight - weight.detach()) * alone).masked_fill(mine, 0)
            inside.clear()
            return output + extra.to(output.dtype).reshape(output.shape)

        return hook

    for name, block in model.named_modules():
        if name in kinds:
            router = next(getattr(block, item) for item in upstream.ROUTERS if hasattr(block, item))
            seen: dict[str, Any] = {}
            handles.append(router.register_forward_hook(remember(seen)))
            handles.append(block.experts.register_forward_hook(of(block, kinds[name], seen), with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def remember(seen: dict[str, Any]) -> Any:
    """A hook that keeps a router's logits, except while experts are run one by one."""

    def hook(module: Any, args: Any, output: Any) -> None:
        seen["logits"] = output[0] if isinstance(output, tuple) else output

    return hook


def every_weight(kind: str, logits: Any, index: Any, own: Any, block: Any) -> Any:
    """The weight of each expert by a rule, written out: its factor is what the first expert that was picked has."""
    score, _, rest = kind.partition(", ")
    wide = logits.double()
    scores = {
        "softmax": lambda: (wide - wide.logsumexp(-1, keepdim=True)).exp(),
        "sigmoid": lambda: 1 / (1 + (-wide).exp()),
        "sqrt of softplus": lambda: (1 + wide.exp()).log().sqrt(),
        "probabilities": lambda: wide,
    }[score]()
    if "times" in rest:
        scores = scores * block.router.per_expert_scale
    picked = scores.detach().gather(-1, index)
    if rest.startswith("plain"):  # one number for all tokens
        return scores * (own.detach()[own != 0] / picked[own != 0])[0]
    return scores * (own.detach() / picked)[:, :1]


def off(expected: dict[str, Any], found: dict[str, Any]) -> float:
    """The largest difference of any gradient, relative to its largest number; infinite where another parameter has one."""
    if expected.keys() != found.keys():
        return float("inf")
    return max(
        float((expected[name] - found[name]).abs().max() / expected[name].abs().max().clamp(min=1e-9)) for name in expected
    )


# --- one type ---------------------------------------------------------------------------------------------------------------------


def of_type(name: str, sharded: Sharded | None = None) -> dict[str, Any]:
    """One type: its class, and for each variant the rules of its routers and what was found equal."""
    print(name, end=" ", file=sys.stderr, flush=True)
    rows = {}
    for settings in variants(name):
        label = ", ".join(f"{key}: {value}" for key, value in settings.items()) or "as it is"
        try:
            rows[label] = of_variant(name, settings, sharded)
        except layers.LonglineError as error:
            rows[label] = {"refused": error.message.partition(": ")[2]}
        except Exception as error:
            print(f"\n{name} ({label})", traceback.format_exc(), file=sys.stderr)
            rows[label] = {"failed": f"{type(error).__name__}: {error}"[:200], "forward": False}
    return {"class": type(build(name)).__name__, "variants": rows}


def of_variant(name: str, settings: dict[str, Any], sharded: Sharded | None = None) -> dict[str, Any]:
    """What was compared of one variant."""
    from longline.testing import zoo

    model = build(name, **settings)
    batch = zoo.batches(model)["padded"]
    with let_in(model) as found:
        kinds = {layer.name: str(layer.kind) for layer in found if layer.kind}
    result: dict[str, Any] = {"layers": len(found), "kinds": sorted(set(kinds.values()))}
    model, within = build(name, **settings).double(), EXACT
    try:
        run(model, batch)
    except RuntimeError:  # some part of it is float32 whatever one says
        model, within, result["in"] = build(name, **settings), NEAR, "float32"
    result |= exact(model, batch, kinds, within)
    truth = run_with(build(name, **settings), batch)
    result |= {
        item: implementation(build(name, **settings), batch, item, truth) for item in ("eager", "batched_mm", "grouped_mm")
    }
    result["checkpointing"] = checkpointed(name, settings, batch, truth)
    result["lora"] = with_lora(build(name, **settings), batch, kinds)
    result["bfloat16"] = in_bfloat16(build(name, **settings), batch, kinds)
    if sharded is not None:
        result["fsdp2"] = sharded(name, settings)
    return result


def run_with(model: Any, batch: dict[str, Any]) -> Run:
    """A run with all experts let in."""
    with let_in(model):
        return run(model, batch)


def exact(model: Any, batch: dict[str, Any], kinds: dict[str, str], within: float) -> dict[str, bool]:
    """In float64: the output bit by bit, every gradient against the closed form, the last experts against the plain run."""
    plain, with_all = run(model, batch), run_with(model, batch)
    with closed_form(model, kinds):
        closed = run(model, batch)
    last = f"{list(kinds)[-1]}.{upstream.EXPERTS}."
    experts = [item for item in plain[1] if item.startswith(last)]
    routers = [
        item for item in plain[1] if any(item.startswith(f"{layer}.{kind}.") for layer in kinds for kind in upstream.ROUTERS)
    ]
    differs = any(not torch.allclose(plain[1][item], with_all[1][item], rtol=1e-3, atol=0) for item in routers)
    return {
        "forward": torch.equal(plain[0], with_all[0]),
        "router": bool(routers) and differs and off(closed[1], with_all[1]) < within,
        "experts": bool(experts) and all(torch.equal(plain[1][item], with_all[1][item]) for item in experts),
    }


def implementation(model: Any, batch: dict[str, Any], name: str, truth: Run) -> bool | None:
    """With an implementation of experts: its output bit by bit, the gradients of eager. None where a type has its own alone."""
    if name != "eager" and not any(
        upstream.implementation(module.experts) for module in model.modules() if hasattr(module, "experts")
    ):
        return None
    implement(model, name)
    plain, with_all = run(model, batch), run_with(model, batch)
    return torch.equal(plain[0], with_all[0]) and off(truth[1], with_all[1]) < NEAR


def checkpointed(name: str, settings: dict[str, Any], batch: dict[str, Any], truth: Run) -> bool | None:
    """Gradients with activations computed again, in both ways of torch."""
    good = []
    for reentrant in (False, True):
        model = build(name, **settings)
        if not model.supports_gradient_checkpointing:
            return None
        model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        model.enable_input_require_grads()
        good.append(off(truth[1], run_with(model, batch)[1]) < NEAR)
    return all(good)


def with_lora(model: Any, batch: dict[str, Any], kinds: dict[str, str]) -> bool | None:
    """With LoRA on experts and routers against the closed form: what was not picked is run with its adapter. None: nothing fits."""
    from peft import LoraConfig, get_peft_model

    layer = model.get_submodule(list(kinds)[-1])
    router = next(item for item in upstream.ROUTERS if hasattr(layer, item))
    mine = [f"experts.{item}" for item, weight in layer.experts.named_parameters() if weight.dim() == 3]
    mine += [
        f"{router}.{item}"
        for item, weight in getattr(layer, router).named_parameters()
        if weight.dim() == 2 and "." not in item
    ]
    if not mine:
        return None
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=[], target_parameters=mine))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for item, weight in adapted.named_parameters():
            if "lora_B" in item:
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.1)
    there = {f"base_model.model.{item}": kind for item, kind in kinds.items()}
    plain, with_all = run(adapted, batch), run_with(adapted, batch)
    with closed_form(adapted, there):
        closed = run(adapted, batch)
    return torch.equal(plain[0], with_all[0]) and off(closed[1], with_all[1]) < NEAR


def in_bfloat16(model: Any, batch: dict[str, Any], kinds: dict[str, str]) -> bool | None:
    """In bfloat16 and in mixed precision the same rules are found, and the output is that without."""
    good = []
    for whole in (False, True):
        made = model.bfloat16() if whole else model
        with torch.autocast("cpu", torch.bfloat16, enabled=not whole):
            try:
                plain = made(**batch, use_cache=False).logits
            except RuntimeError:  # the plain model cannot
                continue
            with let_in(made) as found:
                with_all = made(**batch, use_cache=False)
        with_all.loss.backward()
        good.append(
            torch.equal(plain, with_all.logits) and all(str(layer.kind) == kinds[layer.name] for layer in found if layer.kind)
        )
    return all(good) if good else None


# --- two ranks --------------------------------------------------------------------------------------------------------------------


@contextmanager
def two_ranks() -> Iterator[Sharded]:
    """Two processes with FSDP2 over gloo, for as long as it lasts: a function that asks them for one variant."""
    context = torch.multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        asked, said = [context.Queue() for _ in range(2)], context.Queue()
        ranks = [context.Process(target=serve, args=(rank, f"{folder}/store", asked[rank], said)) for rank in range(2)]
        for process in ranks:
            process.start()

        def ask(name: str, settings: dict[str, Any]) -> bool:
            for queue in asked:
                queue.put((name, settings))
            told = [said.get(timeout=300) for _ in ranks]
            for text in told:
                if text:
                    print(f"\n{name} fsdp2: {text}", file=sys.stderr)
            return not any(told)

        try:
            yield ask
        finally:
            for queue in asked:
                queue.put(None)
            for process in ranks:
                process.join(30)


def serve(rank: int, store: str, asked: Any, said: Any) -> None:
    """What a rank does: compare what it is asked for, and say what is wrong."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    while (item := asked.get()) is not None:
        try:
            difference = of_shards(*item)
            said.put("" if difference < NEAR else f"gradients differ by {difference}")
        except Exception:
            said.put(traceback.format_exc())
    torch.distributed.destroy_process_group()


def of_shards(name: str, settings: dict[str, Any]) -> float:
    """How far the gradients of a sharded model are off those of a whole one; every rank has the same batch."""
    from torch.distributed.fsdp import fully_shard

    from longline.testing import zoo

    model = build(name, **settings)
    batch = zoo.batches(model)["padded"]
    truth = run_with(build(name, **settings), batch)
    with let_in(model):
        for module in reversed(list(model.modules())):
            if type(module).__name__ in model._no_split_modules:
                fully_shard(module)
        fully_shard(model)
        _, found = run(model, batch)
    return off(truth[1], {item: grad.full_tensor() for item, grad in found.items()})


# --- the result -------------------------------------------------------------------------------------------------------------------


def measure(names: list[str]) -> dict[str, Any]:
    """The whole matrix, or some types of it."""
    known = types() if not names else dict.fromkeys(names, "")
    with two_ranks() as sharded:
        return {
            "types": {name: of_type(name, sharded) for name, why in known.items() if not why},
            "not built": {name: why for name, why in known.items() if why},
        }


def kinds(result: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The rules of routers by type, with the settings under which they are so, for the plugin's plan: the default first."""
    found = {}
    for name, item in result["types"].items():
        text = build(name).config.get_text_config()
        fields = [field for field in OTHERS if any(field in label for label in item["variants"])]
        default = {field: getattr(text, field) for field in fields}
        found[name] = [
            {"when": {**default, **settings}, **{key: row[key] for key in ("kinds", "refused") if key in row}}
            for settings, row in zip(variants(name), item["variants"].values(), strict=True)
        ]
    return found


WORDS = {True: "yes", False: "no", None: "-"}


def table(result: dict[str, Any]) -> str:
    """The matrix as Markdown."""
    lines = ["| model type | router | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 2) + "|"]
    for name, item in result["types"].items():
        rows = item["variants"].values()
        good = [row for row in rows if "refused" not in row]
        if not good:
            lines.append(f"| `{name}` | refused: {next(iter(rows))['refused']} |" + " |" * len(COLUMNS))
            continue
        rules = " or ".join(dict.fromkeys(rule for row in good for rule in row["kinds"]))
        cells = [WORDS[None if any(row[key] is None for row in good) else all(row[key] for row in good)] for key in COLUMNS]
        lines.append(f"| `{name}` | {rules} | " + " | ".join(cells) + " |")
    names = ", ".join(f"`{name}`" for name in result["not built"])
    return "\n".join([*lines, "", f"Not tried, since no tiny model of them runs on text alone: {names}."])


def with_table(page: str, result: dict[str, Any]) -> str:
    """A page with the table in it."""
    head, rest = page.split(BEGIN)
    return f"{head}{BEGIN}\n\n{table(result)}\n\n{END}{rest.split(END, 1)[1]}"


def wrong(result: dict[str, Any]) -> list[str]:
    """What is neither right nor refused: type, variant, column."""
    rows = [(name, label, row) for name, item in result["types"].items() for label, row in item["variants"].items()]
    return [f"{name} ({label}) {key}" for name, label, row in rows for key in COLUMNS if row.get(key) is False]


def main() -> int:
    """Measure; write or compare."""
    names = [item for item in sys.argv[1:] if not item.startswith("--")]
    result = measure(names)
    text = json.dumps(result, indent=1) + "\n"
    if "--write" in sys.argv and not names:
        RESULT.write_text(text, encoding="utf-8")
        KINDS.write_text(json.dumps(kinds(result), indent=1) + "\n", encoding="utf-8")
        PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8"), result), encoding="utf-8")
    elif names:
        print(text)
    bad = wrong(result)
    print(
        f"{len(result['types'])} types; wrong: {', '.join(bad) or 'none'}; not built: {', '.join(result['not built']) or 'none'}"
    )
    return int(bool(bad) or (not names and RESULT.read_text(encoding="utf-8") != text))


if __name__ == "__main__":
    sys.exit(main())
