"""The mixtures of one model: where they are, which rule each router follows, and the hooks that let all experts in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from longline import LonglineError
from longline_densemixer import dense, router, upstream

if TYPE_CHECKING:
    from torch import Tensor

TOKENS = 16
"""How many tokens a model is tried on."""
ADDED = 64
"""How many units in the last place of its largest number a sum over experts may be off."""


def _eps(*numbers: Tensor) -> float:
    """A unit in the last place of what is computed: that of the coarsest type, mixed precision among them."""
    kind = numbers[0].device.type
    mixed = [torch.get_autocast_dtype(kind)] if torch.is_autocast_enabled(kind) else []
    return max(torch.finfo(dtype).eps for dtype in (*(item.dtype for item in numbers), *mixed))


@dataclass(slots=True)
class Tally:
    """Sums of squares of the gradient of routing weights, for experts that were picked and for those that were not."""

    picked: Any = 0.0
    left: Any = 0.0

    def share(self) -> float | None:
        """Which share belongs to what was not picked, since the last time; None where there was no gradient."""
        picked, left, self.picked, self.left = float(self.picked), float(self.left), 0.0, 0.0
        return left / (picked + left) if picked + left > 0 else None


@dataclass(slots=True, eq=False)
class Layer:
    """One mixture: the module that holds router and experts, and what is known of the router.

    `kind` is its rule, or None with the reason in `fault`, or None before it was ever called.
    """

    name: str
    block: Any
    router_name: str
    pairs: int
    tally: Tally | None
    kind: router.Kind | None = None
    fault: str = ""
    experts: int = 0
    picked: int = 0
    _probing: bool = False
    _inside: bool = False
    _confirmed: bool = False
    _logits: Any = None
    _handles: list[Any] = field(default_factory=list)

    @property
    def router(self) -> Any:
        """The router as it is called, with what an adapter put around it."""
        return getattr(self.block, self.router_name)

    def attach(self) -> None:
        """Watch router and experts. Nothing is replaced: with gradients off, a layer does what it did."""
        experts = getattr(self.block, upstream.EXPERTS)
        self._handles = [
            self.router.register_forward_hook(self._saw_router),
            experts.register_forward_hook(self._saw_experts, with_kwargs=True),
        ]

    def detach(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._logits = [], None

    @contextmanager
    def probing(self) -> Iterator[None]:
        """While it lasts, the layer finds its rule, also with gradients off, and changes nothing."""
        self._probing = True
        try:
            yield
        finally:
            self._probing, self._logits = False, None

    # --- in a forward pass ----------------------------------------------------------------------------------------------------

    def _saw_router(self, module: Any, args: Any, output: Any) -> None:
        if torch.is_grad_enabled() or self._probing:
            self._logits = output if isinstance(output, torch.Tensor) else output[0]

    def _saw_experts(self, module: Any, args: Any, kwargs: Any, output: Any) -> Any:
        if self._inside or not (torch.is_grad_enabled() or self._probing):
            return None
        logits, self._logits = self._logits, None
        given = (*args, *kwargs.values())
        if self._probing:
            self._learn(logits, given, output)
            return None
        if not self._confirmed:
            self._confirm(logits, given, output)
        hidden, index, own = given
        logits = logits.reshape(-1, logits.shape[-1])
        if not (logits.requires_grad and self.kind):
            return None
        if self.tally is not None and own.requires_grad:
            own.register_hook(self._heard_picked)
        weights = self.kind.weights(logits, index, own, self._per_expert(logits).get(self.kind.per_expert))
        left = torch.zeros_like(weights).scatter_add_(-1, index, (own != 0).to(weights.dtype)) == 0
        left[:, self.experts :] = False  # further columns stand for no expert
        return dense.let_in(output, weights, hidden, left, self._gradient)

    def _learn(self, logits: Any, given: Sequence[Any], output: Any) -> None:
        """Find the rule, or the reason why there is none."""
        if self.kind or self.fault:
            return
        if len(given) != 3 or not all(isinstance(item, torch.Tensor) for item in (logits, *given)):
            self.fault = "its experts are not called with hidden states, index and weights, after its router"
            return
        hidden, index, own = given
        logits = logits.detach().reshape(-1, logits.shape[-1])
        try:
            self.kind = router.find(logits, index, own.detach(), self._per_expert(logits))
            self._add_up(hidden.flatten(0, -2)[0], index[0], own[0], output.reshape(len(index), -1)[0])
        except router.UnknownRouterError as error:
            self.kind, self.fault = None, str(error)
            return
        self.picked = index.shape[-1]
        self.experts = min(logits.shape[-1], getattr(self._base(), "num_experts", logits.shape[-1]))

    def _add_up(self, hidden: Tensor, index: Tensor, own: Tensor, output: Tensor) -> None:
        """See on one token [width] that what its experts put out, one by one, adds up to the output by its weights [k]."""
        try:
            alone = self._within(
                lambda run: run(hidden.expand(len(index), -1), index[:, None], hidden.new_ones(len(index), 1)), hidden[None]
            )
        except Exception as error:
            text = f"its experts cannot be called one by one: {type(error).__name__}: {' '.join(str(error).split())}"
            raise router.UnknownRouterError(text) from error
        added = (alone.reshape(len(index), -1) * own[:, None]).sum(0)
        if not torch.allclose(
            added.float(), output.float(), rtol=0, atol=(ADDED * output.abs().max() * _eps(output, hidden, own)).item()
        ):
            raise router.UnknownRouterError("what its experts put out does not add up by its weights")

    @torch.no_grad()
    def _confirm(self, logits: Any, given: Sequence[Any], output: Any) -> None:
        """Look once more at the first real batch: the rule must hold in the run's own numbers, and may not be known before."""
        self._learn(logits, given, output)
        if self.kind is not None:
            _, index, own = given
            flat = logits.detach().reshape(-1, logits.shape[-1])
            if not router.holds(self.kind, flat, index, own.detach(), self._per_expert(flat).get(self.kind.per_expert)):
                self.fault = f"its rule was {self.kind}, and its weights in training are others"
        if self.fault:
            raise refusal([self])
        self._confirmed = True

    def _per_expert(self, logits: Tensor) -> dict[str, Tensor]:
        """Parameters of the router that have a number for each expert; those that are trained come first."""
        found = [(name, item) for name, item in self.router.named_parameters() if item.shape == logits.shape[-1:]]
        return dict(sorted(found, key=lambda item: not item[1].requires_grad))

    # --- in a backward pass ---------------------------------------------------------------------------------------------------

    def _gradient(self, hidden: Tensor, grad: Tensor, left: Tensor) -> Tensor:
        """What the routing weights of experts that were not picked get: all goes through what an adapter put around the experts."""
        found = self._within(lambda run: dense.products(run, hidden, grad, left, self.pairs), hidden)
        if self.tally is not None:
            self.tally.left += found.detach().square().sum()
        return found

    @torch.no_grad()
    def _within(self, function: Callable[[dense.Experts], Tensor], hidden: Tensor) -> Tensor:
        """Call a function with the experts, inside what an adapter put around them, entered once; our hooks keep out of it."""
        base = self._base()
        run, one = upstream.of_all(base), hidden.new_ones(1, 1)
        self._inside = True
        try:
            with upstream.standing_in(base, lambda *_: function(run)):
                found: Tensor = getattr(self.block, upstream.EXPERTS)(hidden[:1], one.long(), one)
        finally:
            self._inside = False
        return found

    def _heard_picked(self, grad: Tensor) -> None:
        if self.tally is not None:
            self.tally.picked += grad.detach().float().square().sum()

    def _base(self) -> Any:
        """The experts without what an adapter put around them."""
        return bare(getattr(self.block, upstream.EXPERTS))


def bare(module: Any) -> Any:
    """A module without what an adapter put around it."""
    if hasattr(module, "original_module"):
        return module.original_module
    return module.get_base_layer() if hasattr(module, "get_base_layer") else module


def find(model: Any, pairs: int, tally: Tally | None) -> list[Layer]:
    """The mixtures of a model, in its order.

    Raises:
        LonglineError: there is none, or one has no router beside its experts.
    """
    found, faults = [], []
    for name, block in model.named_modules():
        children = dict(block.named_children())
        if upstream.EXPERTS not in children or hasattr(block, "get_base_layer"):
            continue
        routers = [item for item in upstream.ROUTERS if item in children]
        layer = Layer(name or type(block).__name__, block, routers[0] if routers else "", pairs, tally)
        if not routers or isinstance(children[upstream.EXPERTS], torch.nn.ModuleList):
            layer.fault = "there is no router beside its experts" if not routers else "its experts are modules of their own"
            faults.append(layer)
        found.append(layer)
    if faults:
        raise refusal(faults)
    if not found:
        raise LonglineError(
            f"not applied: {type(model).__name__} is dense, it has no mixture of experts",
            hint="remove densemixer from plugins:",
        )
    return found


def probe(model: Any, layers: Sequence[Layer]) -> str:
    """Find the rules on a few tokens, without a trace in model or random numbers. Returns why that could not be, or nothing."""
    if any(weight.is_meta for weight in model.parameters()):
        return "the weights are not on this rank yet"
    embedding = model.get_input_embeddings().weight
    tokens = torch.arange(1, TOKENS + 1, device=embedding.device).remainder(len(embedding))[None]
    devices = [] if embedding.device.type == "cpu" else [embedding.device]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        with torch.random.fork_rng(devices, device_type=embedding.device.type), torch.no_grad(), _all_probing(layers):
            model(input_ids=tokens, use_cache=False)
    except LonglineError:
        raise
    except Exception as error:  # whatever a model says to so few tokens; the first batch will tell
        return f"{type(model).__name__} does not take {TOKENS} tokens alone: {type(error).__name__}: {' '.join(str(error).split())}"
    finally:
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
    faults = [layer for layer in layers if layer.fault]
    if faults:
        raise refusal(faults)
    return ""


@contextmanager
def _all_probing(layers: Sequence[Layer]) -> Iterator[None]:
    from contextlib import ExitStack

    with ExitStack() as stack:
        for layer in layers:
            stack.enter_context(layer.probing())
        yield


def refusal(faults: Sequence[Layer]) -> LonglineError:
    """What to raise for layers that this cannot be done for."""
    first = faults[0]
    kind = type(bare(first.router)).__name__ if first.router_name else type(first.block).__name__
    more = f" and {len(faults) - 1} more" if len(faults) > 1 else ""
    return LonglineError(
        f"not applied to {first.name}{more}: {kind}: {first.fault}",
        hint="remove densemixer from plugins: it is for routers whose weights follow from their scores",
    )
