"""What is ranked and trained as one: a matrix of a layer, or all experts of a layer together, which a model keeps in one weight."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from longline.errors import ModelError

if TYPE_CHECKING:
    from longline_spectrum.files import Checkpoint
    from longline_spectrum.weights import Tensor

SMALLEST = 16
"""With fewer singular values their median says little: routers, gates and convolutions stay out."""
_ONE_WEIGHT = {**dict.fromkeys(("gate_proj", "up_proj", "w1", "w3"), "gate_up_proj"), "w2": "down_proj"}
"""Matrices of experts that models of transformers keep in one weight, so that both are trained or none."""
_EMBEDDINGS = re.compile(r"(^|\.)(embed_tokens|embed_in|wte|word_embeddings|tok_embeddings|token_embd)\.weight$")
_HEAD = re.compile(r"(^|\.)(lm_head|embed_out)\.weight$|^output\.weight$")
_NORM = re.compile(r"norm|(^|[._])ln")


@dataclass(frozen=True, slots=True)
class Unit:
    """A matrix of a layer, or the experts of a layer; `stack` is the list of layers that it is in, `kind` its name within a layer.

    `tensors` are the names of its weights, where `*` stands for the number of an expert, of which there are `experts` (0: none).
    """

    stack: str
    layer: int
    kind: str
    shape: tuple[int, int]
    weights: int
    experts: int
    tensors: tuple[str, ...]
    parts: tuple[Tensor, ...] = field(default=(), compare=False, repr=False)

    @property
    def name(self) -> str:
        """Its name in the model, as far as that is known without it."""
        return f"{self.stack}.{self.layer}.{self.kind}"

    def names(self) -> list[str]:
        """The names of its weights, each expert's own."""
        return [name.replace("*", str(number)) for name in self.tensors for number in range(self.experts or 1)]


def units(checkpoint: Checkpoint) -> tuple[list[Unit], dict[str, int]]:
    """The units of a model in the order of stacks, layers and kinds; and how many weights there are besides, by what they are.

    Raises:
        ModelError: the weights are quantised, or there is no layer with a matrix.
    """
    if checkpoint.quantised:
        raise _quantised(checkpoint, checkpoint.quantised)
    groups: dict[tuple[str, int, str], list[tuple[Tensor, int | None]]] = defaultdict(list)
    beside: Counter[str] = Counter(embeddings=0, head=0, norms=0, other=0)
    for tensor in checkpoint.tensors:
        if tensor.stored.decode is None and len(tensor.shape) >= 2 and tensor.stored.name not in ("BOOL", "I64"):
            raise _quantised(checkpoint, tensor.stored.name)
        place = _place(tensor)
        if place is None:
            beside[_besides(tensor)] += tensor.weights
        else:
            groups[place[0]].append((tensor, place[1]))
    if not groups:
        text = f"{checkpoint.name} has no layers with matrices of {SMALLEST} rows and columns at least"
        raise ModelError(text, hint="is it a language model?")
    return [_unit(place, members) for place, members in sorted(groups.items())], dict(beside)


def _quantised(checkpoint: Checkpoint, how: str) -> ModelError:
    text = f"the weights of {checkpoint.name} are quantised ({how}), and what is quantised is not trained"
    return ModelError(text, hint="name the model that it was quantised from")


def _place(tensor: Tensor) -> tuple[tuple[str, int, str], int | None] | None:
    """Stack, layer and kind of a tensor that is a matrix of a layer, and the number of its expert; else None."""
    weight = tensor.name.endswith(".weight")
    if len(tensor.shape) not in (2, 3) or min(tensor.shape[-2:]) < SMALLEST or not (weight or len(tensor.shape) == 3):
        return None
    if tensor.name.endswith("bias"):
        return None
    parts = tensor.name.removesuffix(".weight").split(".")
    at = next((number for number, part in enumerate(parts) if part.isdigit()), None)
    if not at or at + 1 == len(parts):  # no layer, or nothing within it
        return None
    rest, expert = parts[at + 1 :], None
    for number, part in enumerate(rest[:-1]):
        if rest[number - 1 : number] and rest[number - 1].endswith("experts") and (part.isdigit() or part == "*"):
            expert = int(part) if part.isdigit() else None
            rest = [*rest[:number], *rest[number + 1 :]]
            break
    if len(tensor.shape) == 3 or any(part.endswith("experts") and not part.startswith("shared") for part in rest[:-1]):
        rest[-1] = _ONE_WEIGHT.get(rest[-1], rest[-1])
    return (".".join(parts[:at]), int(parts[at]), ".".join(rest)), expert


def _unit(place: tuple[str, int, str], members: Sequence[tuple[Tensor, int | None]]) -> Unit:
    stack, layer, kind = place
    first = members[0][0]
    numbers = {expert for _, expert in members if expert is not None}
    stacked = first.shape[0] if len(first.shape) == 3 and "*" in first.name else 0
    names = {tensor.name if expert is None else _starred(tensor.name, expert) for tensor, expert in members}
    return Unit(
        stack,
        layer,
        kind,
        (first.shape[-2], first.shape[-1]),
        sum(tensor.weights for tensor, _ in members),
        max(numbers) + 1 if numbers else stacked,
        tuple(sorted(names)),
        tuple(tensor for tensor, _ in members),
    )


def _starred(name: str, expert: int) -> str:
    return re.sub(rf"(experts\.){expert}(?=\.)", r"\1*", name)


def _besides(tensor: Tensor) -> str:
    if _EMBEDDINGS.search(tensor.name):
        return "embeddings"
    if _HEAD.search(tensor.name):
        return "head"
    return "norms" if len(tensor.shape) == 1 and _NORM.search(tensor.name) else "other"


# --- kinds ----------------------------------------------------------------------------------------------------------------------


def by_kind(several: Iterable[Unit]) -> dict[str, list[Unit]]:
    """The units by kind, each in the order of layers; where two stacks have the same kind, it is called by its stack too."""
    found: dict[tuple[str, str], list[Unit]] = defaultdict(list)
    for unit in several:
        found[unit.stack, unit.kind].append(unit)
    often = Counter(kind for _, kind in found)
    return {kind if often[kind] == 1 else f"{stack}.{kind}": members for (stack, kind), members in found.items()}


def chosen(kinds: Mapping[str, Sequence[Unit]], wanted: Sequence[str]) -> tuple[dict[str, Sequence[Unit]], list[str]]:
    """The kinds that are named, and the names that fit none: q_proj, self_attn.q_proj, self_attn and a stack's name fit alike."""
    if not wanted:
        return dict(kinds), []
    fitting = {word: [label for label, members in kinds.items() if _fits(word, members[0])] for word in wanted}
    labels = {label for found in fitting.values() for label in found}
    return {label: kinds[label] for label in kinds if label in labels}, [word for word, found in fitting.items() if not found]


def _fits(word: str, unit: Unit) -> bool:
    return f".{word}." in f".{unit.stack}.{unit.kind}."
