"""A loaded model of which the chosen matrices alone are trained: from names in a checkpoint to its weights, and frozen or not."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from longline.errors import LonglineError
from longline_spectrum import upstream
from longline_spectrum.gguf_file import canonical

if TYPE_CHECKING:
    from longline_spectrum.scan import Scan
    from longline_spectrum.units import Unit


@dataclass(frozen=True, slots=True)
class Trained:
    """What is trained of a model: the names of its weights, and how many numbers they are, of how many."""

    names: tuple[str, ...]
    count: int
    total: int


def freeze(model: Any, scan: Scan, units: Iterable[Unit], always: Collection[str], *, head: bool = False) -> Trained:
    """Train the units and what `always` names, with `head` the head too, and nothing else.

    Raises:
        LonglineError: a matrix of the scan is not in the model, or `always` names what it does not have.
    """
    find = _finder(model, scan)
    weights = dict(model.named_parameters())
    units = set(units)
    names = {found for unit in units for name in unit.names() for found in _with_bias(weights, find(name))}
    for unit in {row.unit for row in scan.rows} - units:
        if shared := names.intersection(map(find, unit.names())):
            text = f"{type(model).__name__} keeps {unit.name}, which was not chosen, and one that was in the same weight"
            raise LonglineError(f"{text}: {shared.pop()}", hint="name the kinds without these in plugins.spectrum.kinds")
    for what in dict.fromkeys([*always, *(["head"] if head else [])]):
        names |= _besides(model, weights, what)
    for name, weight in weights.items():
        weight.requires_grad_(name in names)
    kept = tuple(name for name in weights if name in names)
    return Trained(kept, sum(weights[name].numel() for name in kept), sum(weight.numel() for weight in weights.values()))


def _finder(model: Any, scan: Scan) -> Any:
    """A function from a name of the scan to a weight of the model."""
    weights = dict(model.named_parameters())
    rename = upstream.renaming(model)
    others: dict[str, str] = {}
    if scan.gguf:
        # An architecture whose models have other names than the ones that the scan took.
        called, ours = canonical(*scan.gguf), upstream.names_in_gguf(*scan.gguf)
        for name in weights:
            base, _, ending = name.removeprefix(f"{model.base_model_prefix}.").rpartition(".")
            theirs = ours.get(name.rpartition(".")[0]) or ours.get(base)
            if theirs:
                others[called(f"{theirs}.{ending}", 2)] = name

    def find(name: str) -> str:
        found = name if name in weights else rename(name)
        found = found if found in weights else others.get(name, found)
        if found not in weights:
            text = f"{name} of the scan of {scan.model} is no weight of {type(model).__name__}"
            raise LonglineError(text, hint="use a scan of this model: leave `model` and `scan` out of plugins.spectrum")
        return found

    return find


def _with_bias(weights: Collection[str], name: str) -> list[str]:
    """A weight and the bias that belongs to it."""
    base = name.removesuffix(".weight")
    biases = [f"{base}.bias"] if base != name else [f"{name}_bias", f"{name}.bias"]
    return [name, *(bias for bias in biases if bias in weights)]


def _besides(model: Any, weights: dict[str, Any], what: str) -> set[str]:
    """The names of the weights of the embeddings, the head or the norms."""
    if what == "norms":
        found = {
            f"{path}.{name}"
            for path, module in model.named_modules()
            if "norm" in type(module).__name__.lower()
            for name, _ in module.named_parameters(recurse=False)
        }
    else:
        module = model.get_input_embeddings() if what == "embeddings" else _head(model)
        own = {id(weight) for weight in module.parameters()} if module is not None else set()
        found = {name for name, weight in weights.items() if id(weight) in own}
    if not found & set(weights):
        raise LonglineError(f"{type(model).__name__} has no {what} that could be trained", hint=f"remove {what} from always")
    return found & set(weights)


def _head(model: Any) -> Any:
    """What makes tokens, or a score, of the last hidden states."""
    return model.get_output_embeddings() or getattr(model, "score", None) or getattr(model, "classifier", None)
