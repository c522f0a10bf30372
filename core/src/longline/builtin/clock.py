"""How long each stage of a run took: the answer to 'where did the time go', for the manifest."""

from __future__ import annotations

from time import perf_counter

from longline.hookspecs import hookimpl


class StageClock:
    """Adds up seconds by stage; `evaluate` and `optimizer` are parts of `train`, plugins that shape a stage are part of it."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._begun: dict[str, float] = {}

    def as_dict(self) -> dict[str, float]:
        """Seconds by stage, to milliseconds, in the order in which stages were first finished."""
        return {stage: round(seconds, 3) for stage, seconds in self.seconds.items()}

    def _begin(self, stage: str) -> None:
        self._begun[stage] = perf_counter()

    def _end(self, stage: str) -> None:
        begun = self._begun.pop(stage, None)
        if begun is not None:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + perf_counter() - begun

    @hookimpl
    def pre_trainer_args(self) -> None:
        """The first stage ends where the next one begins."""
        self._begin("arguments")

    @hookimpl
    def pre_tokenizer_load(self) -> None:
        """Begin the tokenizer."""
        self._end("arguments")
        self._begin("tokenizer")

    @hookimpl
    def post_tokenizer_load(self) -> None:
        """End the tokenizer."""
        self._end("tokenizer")

    @hookimpl
    def pre_data_load(self) -> None:
        """Begin the data."""
        self._begin("data")

    @hookimpl
    def post_data_load(self) -> None:
        """End the data."""
        self._end("data")

    @hookimpl
    def pre_model_load(self) -> None:
        """Begin a model; a reference adds to the same stage."""
        self._begin("model")

    @hookimpl
    def post_model_load(self) -> None:
        """End a model."""
        self._end("model")

    @hookimpl
    def pre_adapter_create(self) -> None:
        """Begin the adapter."""
        self._begin("adapter")

    @hookimpl
    def post_adapter_create(self) -> None:
        """End the adapter."""
        self._end("adapter")

    @hookimpl
    def on_train_begin(self) -> None:
        """Begin training."""
        self._begin("train")

    @hookimpl
    def pre_optimizer_step(self) -> None:
        """Begin an optimizer step."""
        self._begin("optimizer")

    @hookimpl
    def on_step_end(self) -> None:
        """End the optimizer step; an evaluation would begin here."""
        self._end("optimizer")
        self._begin("evaluate")

    @hookimpl
    def on_evaluate(self) -> None:
        """End an evaluation."""
        self._end("evaluate")

    @hookimpl
    def on_train_end(self) -> None:
        """End training; what follows is saving."""
        self._end("train")
        self._begin("save")

    @hookimpl
    def on_save(self) -> None:
        """The model is saved."""
        self._end("save")
