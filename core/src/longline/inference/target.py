"""What a person names on the command line: a config, a run folder or a model path, and the model that it stands for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from longline import artifacts, upstream
from longline import model as models
from longline.config.loader import LoadedConfig, load_config
from longline.config.sections import ModelSection
from longline.errors import ConfigError, ModelError
from longline.parallel.machine import machine
from longline.plan import METHODS, Head

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from longline.config.sections import Dtype


@dataclass(frozen=True, slots=True)
class Target:
    """What a person named on the command line. `weights` are a run's own; None means the model as it came."""

    section: ModelSection
    loaded: LoadedConfig | None = None
    run_dir: Path | None = None
    weights: Path | None = None

    @property
    def head(self) -> Head:
        """What the model puts out: tokens, or one score after a reward run."""
        return METHODS[self.loaded.config.method].head if self.loaded and self.run_dir else "tokens"

    @property
    def name(self) -> str:
        """What to call it in messages and files."""
        return str(self.weights or self.section.path)


def find_target(text: str, overrides: Sequence[str] = (), *, base: bool = False, checkpoint: str | None = None) -> Target:
    """Tell apart a config file, a run folder, and anything that `model.path` may be.

    `base` asks for the untuned model of a run, `checkpoint` for one of its checkpoints (a name or a path).

    Raises:
        ConfigError: a run has no such weights, or options that belong to a run are given without one.
    """
    path = Path(text).expanduser()
    if path.is_dir() and (path / "run.json").is_file():
        loaded = load_config(path / "config.yaml", overrides, data_files=False)
        weights = None if base else _weights(path, checkpoint)
        return Target(loaded.config.model, loaded, path, weights)
    if checkpoint:
        raise ConfigError(f"--checkpoint: {text} is not a run folder")
    if path.suffix in (".yaml", ".yml"):
        loaded = load_config(path, overrides, data_files=False)
        return Target(loaded.config.model, loaded)
    if overrides:
        raise ConfigError("--set changes a config, and the target is none")
    return Target(ModelSection(path=text))


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
        if (path / upstream.STATE_FILE).is_file():
            return path
    names = ", ".join(path.name for path in artifacts.checkpoints(run_dir)) or "none"
    raise ConfigError(f"--checkpoint: {checkpoint} is none of the run's checkpoints: {names}")


def load(target: Target, dtype: Dtype = "auto") -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load model and tokenizer in evaluation mode, an adapter on top of its base, on the best device of this machine.

    `auto` is what a run used, so that its numbers come out again; without a run it is bfloat16 where the device computes in it
    and float32 elsewhere, since nothing is trained here.
    """
    section = target.section
    tokenizer = models.load_tokenizer(_tuned(section, target.weights) if target.weights else section)
    this = machine(use_cpu=_use_cpu(target))
    chosen = dtype if dtype != "auto" else section.dtype
    if chosen == "auto" and target.run_dir:
        chosen = artifacts.read_manifest(target.run_dir)["plan"]["dtype"]
    if chosen == "auto":
        chosen = "bfloat16" if this.bfloat16 else "float32"
    adapter = target.weights is not None and (target.weights / "adapter_config.json").is_file()
    source = section if adapter or target.weights is None else _tuned(section, target.weights)
    model = models.load_model(source, models.model_kwargs(source, chosen, target.head), target.head)
    models.resize_embeddings(model, tokenizer)
    if adapter:
        model = _put_on(model, target)
    ready: PreTrainedModel = cast("Any", model).to(this.device).eval()
    return ready, tokenizer


def _use_cpu(target: Target) -> bool:
    return bool(target.loaded and target.loaded.config.trainer.get("use_cpu"))


def _tuned(section: ModelSection, weights: Path) -> ModelSection:
    """The section for a folder that a run saved: everything the config changed is in the folder already."""
    keep = {"attn_implementation": section.attn_implementation, "trust_remote_code": section.trust_remote_code}
    return ModelSection(path=str(weights.absolute()), dtype=section.dtype, **keep)


def _put_on(model: PreTrainedModel, target: Target) -> PreTrainedModel:
    from peft import PeftModel

    try:
        adapted: PreTrainedModel = PeftModel.from_pretrained(model, str(target.weights))
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        first = str(error).strip().split("\n")[0]
        raise ModelError(f"cannot put the adapter {target.weights} on {target.section.path}: {first}") from error
    return adapted
