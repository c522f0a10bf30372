"""What a person names on the command line: a config, a run folder or a model path, and the model that it stands for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from longline import artifacts, stages, upstream
from longline.config.loader import load_config, untold
from longline.config.sections import ModelSection
from longline.errors import ConfigError
from longline.methods import find
from longline.methods.base import Method
from longline.model import load_tokenizer, put_on
from longline.run import open_run
from longline.weights import endings, vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from longline.config.loader import LoadedConfig
    from longline.config.sections import Dtype
    from longline.plugins.run import Command, Run, State


@dataclass(frozen=True, slots=True)
class Target:
    """What a person named on the command line. `weights` are a run's own; None means the model as it came.

    `state` has the plugins of the config, whose hooks see the model that is loaded as they saw it in training.
    """

    section: ModelSection
    state: State
    loaded: LoadedConfig | None = None
    run_dir: Path | None = None
    weights: Path | None = None

    @property
    def run(self) -> Run:
        """The run that was opened on it, as hooks see one."""
        return self.state.view

    @property
    def method(self) -> Method | None:
        """The method that the model was tuned with; None for a model as it came."""
        return find(self.loaded.config.method) if self.loaded and self.weights else None

    def answering(self) -> Callable[..., Iterator[tuple[int, list[int]]]]:
        """The function by which the model answers. Raises ConfigError where it has none."""
        return (self.method or Method()).answering(self.name)

    def measuring(self) -> Callable[..., dict[str, float]]:
        """The function that measures the model on rows of the config's method.

        Raises:
            ConfigError: the target has no config, or the method no measure.
        """
        if self.loaded is None:
            raise ConfigError("evaluate needs a config or a run folder: it says what the evaluation data is")
        return find(self.loaded.config.method).measuring(self.name)

    @property
    def name(self) -> str:
        """What to call it in messages and files."""
        return str(self.weights or self.section.path)


def find_target(
    text: str, command: Command, overrides: Sequence[str] = (), *, base: bool = False, checkpoint: str | None = None
) -> Target:
    """Tell apart a config file, a run folder, and anything that `model.path` may be, and open a run of `command` on it.

    `base` asks for the untuned model of a run, `checkpoint` for one of its checkpoints (a name or a path).

    Raises:
        ConfigError: a run has no such weights, or options that belong to a run are given without one.
    """
    path = Path(text).expanduser()
    if path.is_dir() and (path / "run.json").is_file():
        loaded = load_config(path / "config.yaml", overrides, data_files=False)
        weights = None if base else _weights(path, checkpoint)
        return _opened(loaded, command, path, weights)
    if checkpoint:
        raise ConfigError(f"--checkpoint: {text} is not a run folder")
    if path.suffix in (".yaml", ".yml"):
        loaded = load_config(path, overrides, data_files=False)
        return _opened(loaded, command)
    if overrides:
        raise ConfigError("--set changes a config, and the target is none")
    bare = untold(ModelSection(path=text))
    return Target(bare.config.model, open_run(bare, command))


def _opened(loaded: LoadedConfig, command: Command, run_dir: Path | None = None, weights: Path | None = None) -> Target:
    state = open_run(loaded, command)
    state.tuned = weights
    if weights is None:
        state.output = Method.output
    stages.trainer_arguments(state)
    return Target(loaded.config.model, state, loaded, run_dir, weights)


def _weights(run_dir: Path, checkpoint: str | None) -> Path:
    if checkpoint is None:
        if not (run_dir / "model").is_dir():
            found = artifacts.checkpoints(run_dir)
            hint = f"--checkpoint {found[-1].name}" if found else "train it first"
            raise ConfigError(
                f"{run_dir} has no final model: the run is {artifacts.read_manifest(run_dir)['status']}", hint=hint
            )
        return run_dir / "model"
    for path in (run_dir / checkpoint, Path(checkpoint)):
        if (path / upstream.transformers.STATE_FILE).is_file():
            return path
    names = ", ".join(path.name for path in artifacts.checkpoints(run_dir)) or "none"
    raise ConfigError(f"--checkpoint: {checkpoint} is none of the run's checkpoints: {names}")


def load(target: Target, dtype: Dtype = "auto") -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load model and tokenizer in evaluation mode, an adapter on top of its base, on the best device of this machine.

    `auto` is what a run used, so that its numbers come out again; without a run it is bfloat16 where the device computes in it
    and float32 elsewhere, since nothing is trained here.
    """
    tokenizer = load_words(target)
    return load_weights(target, tokenizer, dtype), tokenizer


def load_words(target: Target) -> PreTrainedTokenizerBase:
    """Load the tokenizer alone, for what can be refused before the model is loaded."""
    # What hooks did to the tokenizer was saved with it; they would do it a second time.
    loaded: PreTrainedTokenizerBase = (
        load_tokenizer(_tuned(target.section, target.weights)) if target.weights else stages.tokenizer(target.state)
    )
    return loaded


def load_weights(target: Target, tokenizer: PreTrainedTokenizerBase, dtype: Dtype = "auto") -> PreTrainedModel:
    """Load the model as `load` does; `tokenizer` is the one that `load_words` gave."""
    section, state = target.section, target.state
    chosen = dtype if dtype != "auto" else section.dtype
    if chosen == "auto" and target.run_dir:
        chosen = artifacts.read_manifest(target.run_dir)["plan"]["dtype"]
    if chosen == "auto":
        chosen = "bfloat16" if state.plan.machine.bfloat16 else "float32"
    adapter = target.weights is not None and (target.weights / "adapter_config.json").is_file()
    source = section if adapter or target.weights is None else _tuned(section, target.weights)
    model = stages.load(state, source, stages.POLICY, chosen)
    vocabulary.grow(model, tokenizer)
    state.view.hook.post_model_load(run=state.view, model=model, role=stages.POLICY)
    if target.weights is not None and adapter:
        model = put_on(model, target.weights, target.section.path)
        endings.read(model, target.weights)
    ready: PreTrainedModel = model.to(state.plan.device).eval()
    return ready


def _tuned(section: ModelSection, weights: Path) -> ModelSection:
    """The section for a folder that a run saved: everything the config changed is in the folder already."""
    keep = {"attn_implementation": section.attn_implementation, "trust_remote_code": section.trust_remote_code}
    return ModelSection(path=str(weights.absolute()), dtype=section.dtype, **keep)
