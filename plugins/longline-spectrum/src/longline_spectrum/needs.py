"""What of a config this plugin cannot do, and what it will do: by the headers of the weights, and a scan if there is one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from longline import Problem
from longline.errors import ModelError, did_you_mean
from longline_spectrum import choice, files, kept
from longline_spectrum import scan as scans
from longline_spectrum.units import Unit, by_kind, chosen, units

if TYPE_CHECKING:
    from longline import Config, Plan
    from longline_spectrum.config import SpectrumConfig
    from longline_spectrum.files import Checkpoint
    from longline_spectrum.scan import Scan

HERE = "plugins.spectrum"


@dataclass
class Sources:
    """Where what is measured comes from, by options and config: each part is read when it is asked for, once."""

    options: SpectrumConfig
    config: Config

    @property
    def key(self) -> str:
        """The place in the config that names the model whose scan is used."""
        return f"{HERE}.model" if self.options.model else "model.path"

    @cached_property
    def own(self) -> Checkpoint:
        """The weights that are trained. Raises ModelError."""
        model = self.config.model
        return files.opened(model.path, revision=model.revision, gguf=model.gguf_file)

    @cached_property
    def checkpoint(self) -> Checkpoint | None:
        """The weights that are scanned; None where a file of a scan is given. Raises ModelError."""
        if self.options.scan:
            return None
        return files.opened(self.options.model) if self.options.model else self.own

    @cached_property
    def kept(self) -> Scan | None:
        """The scan that is there. Raises ModelError."""
        if self.options.scan:
            return scans.read(self.options.scan)
        return kept.glance(self.checkpoint) if self.checkpoint else None

    @cached_property
    def units(self) -> list[Unit]:
        """What can be trained, by the scan or by the headers of what will be scanned. Raises ModelError."""
        if self.kept:
            return [row.unit for row in self.kept.rows]
        return units(self.checkpoint)[0] if self.checkpoint else []


def problems(options: SpectrumConfig, config: Config, plan: Plan) -> Iterator[Problem]:
    """An adapter, quantised weights, weights that are not there, kinds that fit none, a fraction of nothing or of everything."""
    yield from _beside(options, config, plan)
    sources = Sources(options, config)
    try:
        found = sources.units
    except ModelError as error:
        where = f"{HERE}.scan" if options.scan else sources.key
        yield Problem(error.message, path=where, hint=error.hint)
        return
    yield from _fraction(options, found)
    if options.scan or options.model:
        yield from _other_model(sources, found)


def _beside(options: SpectrumConfig, config: Config, plan: Plan) -> Iterator[Problem]:
    if config.adapter is not None:
        text = "beside an adapter all weights of the model are frozen, so that spectrum would choose nothing"
        yield Problem(text, path="adapter", hint="remove adapter, or spectrum from plugins:")
    if config.model.quantization is not None:
        text = "quantised weights are not trained, and spectrum trains weights of the model itself"
        yield Problem(text, path="model.quantization", hint="remove quantization, or spectrum from plugins:")
    if config.model.tokenizer.add_tokens and "embeddings" not in options.always:
        text = "the rows of new tokens start from random numbers, and spectrum freezes the embeddings"
        yield Problem(text, path="model.tokenizer.add_tokens", hint=f"{HERE}.always: [embeddings, head] trains them")


def _fraction(options: SpectrumConfig, found: list[Unit]) -> Iterator[Problem]:
    """Whether the options choose something, and not all."""
    kinds = by_kind(found)
    taken, unknown = chosen(kinds, options.kinds)
    words = {word for label in kinds for word in (label, *label.split("."))}
    for word in unknown:
        otherwise = f"there are {', '.join(kinds)}"
        yield Problem(f"no kind of matrix is called {word!r}", f"{HERE}.kinds", hint=did_you_mean(word, words, otherwise))
    if not taken:
        return
    counts = {label: choice.count_of(len(members), options.top_fraction) for label, members in taken.items()}
    if not any(counts.values()):
        most = max(map(len, taken.values()))
        text = f"{options.top_fraction:g} of {most} layers is less than one: nothing would be trained"
        yield Problem(text, f"{HERE}.top_fraction", hint=f"{1 / most:.2g} or more trains one layer of each kind")
    elif sum(counts.values()) == len(found):
        text = f"{options.top_fraction:g} trains every matrix of every layer, so that nothing is chosen"
        hint = "1 percent is 0.01; a half is 0.5; to train all layers of some kinds, name them in kinds"
        yield Problem(text, f"{HERE}.top_fraction", hint=hint)


def _other_model(sources: Sources, found: list[Unit]) -> Iterator[Problem]:
    """Whether another model's scan names the matrices that this model has, as far as that can be seen before it is loaded."""
    try:
        own_files = sources.own
    except ModelError:
        return  # not here yet, or not at all, which the core tells
    try:
        own = {_within(unit): unit.shape for unit in units(own_files)[0]}
    except ModelError as error:
        yield Problem(error.message, path="model.path", hint=error.hint)
        return
    apart = [unit for unit in found if own.get(_within(unit)) != unit.shape]
    if apart or len(own) != len(found):
        text = f"the scan is of a model with other matrices: {len(found)} against {len(own)}"
        if apart:
            there = own.get(_within(apart[0]))
            text += f", {apart[0].name} is {list(apart[0].shape)} and {list(there) if there else 'absent'} in this one"
        where = f"{HERE}.{'scan' if sources.options.scan else 'model'}"
        yield Problem(text, path=where, hint="use a scan of a model of the same shape")


def _within(unit: Unit) -> tuple[str, int, str]:
    """What a unit is called within the layers: what stands before them differs where a part of a model was saved by itself."""
    return unit.stack.rpartition(".")[2], unit.layer, unit.kind


# --- what will be done ------------------------------------------------------------------------------------------------------------


def lines(options: SpectrumConfig, config: Config, plan: Plan) -> Iterator[str]:
    """What will be trained and why; or that the model will be scanned first, and about how much is trained then."""
    sources = Sources(options, config)
    if sources.kept is None:
        yield from _before_scan(sources)
    else:
        yield from _by_scan(sources, sources.kept)
    if plan.output == "score":
        yield "trains the new head, which starts from random numbers"


def _before_scan(sources: Sources) -> Iterator[str]:
    options, checkpoint = sources.options, sources.checkpoint
    if checkpoint is None:
        return
    found, beside = units(checkpoint)
    taken, _ = chosen(by_kind(found), options.kinds)
    matrices = sum(unit.experts * len(unit.tensors) or 1 for unit in found)
    total = sum(unit.weights for unit in found) + sum(beside.values())
    trained = choice.expected(taken, options.top_fraction) + sum(count for _, count in besides(options, beside))
    where = options.model or sources.config.model.path
    yield f"scans the {matrices} matrices of {checkpoint.name} first, once; now: longline spectrum scan {where}"
    yield f"trains about {choice.share(trained, total)}, the rest is frozen"
    alike: dict[tuple[int, int], list[str]] = {}
    for label, members in taken.items():
        alike.setdefault((choice.count_of(len(members), options.top_fraction), len(members)), []).append(label)
    for (count, number), labels in alike.items():
        yield f"{count} of {number} layers, as the scan will say, of {', '.join(labels)}"
    yield from _always(options, beside)


def _by_scan(sources: Sources, scan: Scan) -> Iterator[str]:
    options = sources.options
    picked = choice.pick(scan, options.top_fraction, options.threshold, options.kinds)
    trained = sum(kind.weights for kind in picked) + sum(count for _, count in besides(options, scan.beside))
    yield f"trains {choice.share(trained, scan.total)}, the rest is frozen; by the scan of {scan.model}"
    for kind in picked:
        ratio = kind.why(options.threshold)
        yield f"{kind.name}: {kind.trains}; signal to noise {ratio}"
    yield from _always(options, scan.beside)


def besides(options: SpectrumConfig, beside: Mapping[str, int]) -> list[tuple[str, int]]:
    """What is trained always, with how many weights; a head of tied weights is in no file, and counted with the embeddings."""
    names = dict.fromkeys(options.always)
    if "head" in names and not beside.get("head"):
        names = dict.fromkeys(["embeddings", *(name for name in names if name not in ("head", "embeddings"))])
    return [(name, beside.get(name, 0)) for name in names]


def _always(options: SpectrumConfig, beside: Mapping[str, int]) -> Iterator[str]:
    for name, count in besides(options, beside):
        tied = (
            ", which are the head too" if name == "embeddings" and "head" in options.always and not beside.get("head") else ""
        )
        yield f"{name}: {choice.short(count)} weights{tied}, always"
