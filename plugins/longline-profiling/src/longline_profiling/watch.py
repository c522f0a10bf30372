"""Times the methods of one trainer object, of any class that derives from transformers.Trainer, without a line in that class.

Only the object is wrapped, never its class, and `detach` takes everything off again.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from longline_profiling.spans import Span
from longline_profiling.upstream import METHODS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from longline_profiling.recorder import Recorder
    from longline_profiling.session import Session

WAIT = "data_wait"
_END = object()
_ABSENT = object()


class Watch(TrainerCallback):
    """Wraps `trainer` from `attach` to `detach`, and tells `session` where training, steps and batches begin and end.

    Raises AttributeError when the trainer has not got one of `methods`.
    """

    def __init__(self, trainer: Any, recorder: Recorder, session: Session, methods: Sequence[str] = ()) -> None:
        missing = [name for name in methods if not callable(getattr(trainer, name, None))]
        if missing:
            raise AttributeError(f"{type(trainer).__name__} has no method {missing[0]!r}", name=missing[0], obj=trainer)
        self.trainer = trainer
        self.recorder = recorder
        self.session = session
        self.methods = [*METHODS, *(name for name in methods if name not in METHODS)]
        self._class = type(trainer).__name__
        self._optimizer: Any = None
        self._undo: list[Callable[[], None]] = []
        self._evaluating = 0

    def attach(self) -> None:
        """Wrap the trainer; its optimizer is made later, and wrapped then."""
        for name in self.methods:
            if hasattr(self.trainer, name):
                self._wrap(self.trainer, name, f"{self._class}.{name}")
        self._wrap(self.trainer.accelerator, "backward", "Accelerator.backward")
        self._replace(self.trainer, "get_batch_samples", self._watched_batches(self.trainer.get_batch_samples))
        self.trainer.add_callback(self)
        self._undo.append(lambda: self.trainer.remove_callback(self))

    def detach(self) -> None:
        """Give the trainer and its optimizer their own methods back."""
        while self._undo:
            self._undo.pop()()

    # --- wrapping ---------------------------------------------------------------------------------------------------------------

    def _wrap(self, owner: Any, name: str, label: str) -> None:
        method = getattr(owner, name)
        if getattr(method, "span", None) == label and hasattr(method, "__func__"):
            method = method.__func__.__wrapped__.__get__(owner)

        @functools.wraps(method)
        def timed(*args: Any, **kwargs: Any) -> Any:
            shown = f"{label} (evaluate)" if self._evaluating else label
            with Span(self.recorder, shown):
                return method(*args, **kwargs)

        special = {"evaluate": self._evaluation, "training_step": self._training_step}.get(name)
        self._replace(owner, name, special(method, label) if special and owner is self.trainer else timed)

    def _replace(self, owner: Any, name: str, function: Callable[..., Any]) -> None:
        """Put a function over the object's method. One that was put over ours later stays, and goes on without being timed."""
        before = vars(owner).get(name, _ABSENT)
        setattr(owner, name, function)

        def undo() -> None:
            if vars(owner).get(name) is not function:
                return
            if before is _ABSENT:
                delattr(owner, name)
            else:
                setattr(owner, name, before)

        self._undo.append(undo)

    def _evaluation(self, method: Callable[..., Any], label: str) -> Callable[..., Any]:
        """What runs inside an evaluation is named so: its figures have nothing to do with those of training."""

        @functools.wraps(method)
        def timed(*args: Any, **kwargs: Any) -> Any:
            self._evaluating += 1
            try:
                with Span(self.recorder, label):
                    return method(*args, **kwargs)
            finally:
                self._evaluating -= 1

        return timed

    def _training_step(self, method: Callable[..., Any], label: str) -> Callable[..., Any]:
        @functools.wraps(method)
        def timed(*args: Any, **kwargs: Any) -> Any:
            inputs = args[1] if len(args) > 1 else kwargs.get("inputs")
            if isinstance(inputs, Mapping):  # trl's online methods are handed prompts, and make the batch inside
                self.session.on_batch(inputs)
            with Span(self.recorder, label):
                return method(*args, **kwargs)

        return timed

    def _watched_batches(self, method: Callable[..., Any]) -> Callable[..., Any]:
        """A step begins where its batches are fetched. The loader itself is not wrapped: a resume takes it apart."""

        @functools.wraps(method)
        def watched(epoch_iterator: Iterator[Any], *args: Any, **kwargs: Any) -> Any:
            self.session.begin_step(self.trainer.state.global_step + 1)
            return method(self._waiting(epoch_iterator), *args, **kwargs)

        return watched

    def _waiting(self, batches: Iterator[Any]) -> Iterator[Any]:
        while True:
            with Span(self.recorder, f"{self._class}.{WAIT}"):
                batch = next(batches, _END)
            if batch is _END:
                return
            yield batch

    # --- what the trainer tells -------------------------------------------------------------------------------------------------

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The optimizer is there: time its step, under its own name rather than that of accelerate's wrapper."""
        optimizer = self.trainer.optimizer
        if optimizer is not self._optimizer:
            self._optimizer = optimizer
            own = getattr(optimizer, "optimizer", optimizer)
            self._wrap(optimizer, "step", f"{type(own).__name__}.step")
        self.session.begin_training(state)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A trainer with a loop of its own may fetch its batches otherwise."""
        if self.recorder.step != state.global_step + 1:
            self.session.begin_step(state.global_step + 1)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The weights changed."""
        self.session.end_step(state.global_step)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Training is over, or was stopped."""
        self.session.end_training()
