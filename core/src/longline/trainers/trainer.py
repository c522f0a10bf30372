"""What every trainer of Longline adds to transformers.Trainer: whole checkpoints, a loss that is looked at, answers to hooks.

It is a mixin, so that the trainers of trl can have it too.
"""

from __future__ import annotations

import math
import shutil
import time
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self

import torch
from accelerate.utils import FullyShardedDataParallelPlugin, gather_object
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from longline import artifacts, upstream
from longline.adapters import start as starts
from longline.errors import ConfigError, TrainingError
from longline.parallel.ranks import most
from longline.resuming import checkpoint
from longline.trainers import plugin_states
from longline.trainers.evaluating import EvaluatingTrainer
from longline.trainers.going_on import NothingLeftError, between_steps, nothing_left
from longline.trainers.sampling import LengthGroupedSampler
from longline.weights import endings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from transformers import TrainingArguments

    from longline.events import Cell
    from longline.plugins.run import Run
    from longline.trainers import Parts


class EvaluationStoppedError(Exception):
    """A signal arrived during an evaluation; never leaves this package."""


class LonglineTrainer(EvaluatingTrainer):
    """Mixin before a Trainer class. `attach` must be called once, before `train`."""

    run: Run
    loss_function: Callable[..., Any]
    describe_rows: Callable[[list[int]], str]
    stop_on_nonfinite: bool
    columns: Mapping[str, Any] = MappingProxyType({})
    """What the batch at hand holds beside the model's inputs: `row_ids` [rows, most samples], int64, on the CPU, -1 where a row has
    fewer; and the further columns that somebody asked for, on the device."""
    start: starts.Start
    """What the adapter took from the base when it began, empty if nothing; it is saved with the adapter."""
    record: Callable[[], Mapping[str, Any]] = dict
    """What a checkpoint is made by, to be found in it."""
    begins_anew_at: int | None = None
    """The step of a checkpoint of which only the weights are wanted."""
    was_ended = False
    """Whether the run was over, by a word of a callback, when the checkpoint was made that it is resumed from."""
    owes_evaluation = False
    """Whether the checkpoint that a resumed run goes on from should have been evaluated, and was not."""
    whole: dict[str, Any] | None = None
    """The weights of all ranks while they are saved, and after that failed, where ranks hold parts of them."""
    wants_logits = False
    """Whether an evaluation is going on that needs the logits of all tokens."""

    @classmethod
    def build(cls, parts: Parts, args: TrainingArguments) -> Self:
        """Build the trainer of prepared rows.

        Raises:
            ConfigError: the class refuses something.
        """
        return cls(
            model=parts.model,
            args=args,
            train_dataset=parts.train,
            eval_dataset=parts.eval,
            data_collator=parts.collator,
            processing_class=parts.tokenizer,
        )

    def attach(
        self, run: Run, loss: Callable[..., Any], describe_rows: Callable[[list[int]], str], start: starts.Start
    ) -> None:
        """Hand over what the constructor of a Trainer has no place for."""
        self.run = run
        self.start = start
        self.loss_function = loss
        self.describe_rows = describe_rows
        self.stop_on_nonfinite = run.config.nonfinite_loss == "stop"
        self._heard = run.listens("on_completions")
        self._cells = [column.name for column in run.columns if column.align == "row" and column.width is None]
        self._noted: list[Callable[[], Iterable[dict[str, Cell]]]] = []
        self._row_ids: list[int] = []
        self._batch_tokens: torch.Tensor | None = None
        self._tokens = torch.zeros((), dtype=torch.int64, device=self.args.device)

    def create_accelerator_and_postprocess(self) -> None:
        """Turn FSDP2 on also for CPU ranks: accelerate does so only for accelerators, and silently trains with DDP instead."""
        super().create_accelerator_and_postprocess()
        if not self.args.fsdp or self.is_fsdp_enabled:
            return
        if self.args.device.type != "cpu" or self.args.world_size == 1:
            raise ConfigError("trainer.fsdp: accelerate did not turn FSDP on", hint="start several processes: --nproc 2")
        # Sharded checkpoints: torch cannot write a gathered one over gloo.
        plugin = FullyShardedDataParallelPlugin(**{**self.args.fsdp_plugin_args, "state_dict_type": "SHARDED_STATE_DICT"})
        # What was asked for and is not done has to be an error, or be done.
        upstream.accelerate.turn_on_fsdp(self, plugin)

    def place(self, model: Any) -> Any:
        """Make a frozen model ready to be asked beside the policy: on the device, or sharded as the policy is; returns it."""
        if self.is_fsdp_enabled:
            return upstream.trl.shard_reference(model, self.accelerator)
        return self.accelerator.prepare_model(model, evaluation_mode=True)

    def save_final(self, folder: Path) -> None:
        """Write weights and tokenizer that load in one process; every rank must call it, the main one writes."""
        if self.is_fsdp_enabled:
            self.accelerator.state.fsdp_plugin.set_state_dict_type("FULL_STATE_DICT")
        self.save_model(str(folder), _internal_call=True)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        """Group rows by length with a sampler that a resumed run can repeat."""
        rows: Any = self.train_dataset if train_dataset is None else train_dataset
        known = getattr(rows, "column_names", ())
        if self.args.train_sampling_strategy != "group_by_length" or self.args.length_column_name not in known:
            return super()._get_train_sampler(train_dataset)
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        batch = self.args.train_batch_size * self.args.world_size
        return LengthGroupedSampler(rows.with_format("numpy")[self.args.length_column_name][:], batch, seed)

    @property
    def has_own_loss(self) -> bool:
        """Whether a class that is not the core's computes the loss: it may do so from the logits of all tokens."""
        written = (type(self).method_loss, type(self).compute_loss)
        return not all(method.__module__.startswith("longline.trainers.") for method in written)

    # --- batches and loss -------------------------------------------------------------------------------------------------------

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Take out of the batch what no model knows, into `columns`: row ids, and what was asked for beside the tokens."""
        if isinstance(inputs, dict):
            row_ids = inputs.pop("row_ids", None)
            self._batch_tokens = inputs.pop("token_count", None)
            self._row_ids = [] if row_ids is None else [row for row in row_ids.flatten().tolist() if row >= 0]
            further = {
                name: value.to(self.args.device) if isinstance(value, torch.Tensor) else value
                for name, value in inputs.pop("columns", {}).items()
            }
            self.columns = {**({} if row_ids is None else {"row_ids": row_ids}), **further}
        prepared: dict[str, Any] = super()._prepare_inputs(inputs)
        return prepared

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """Forward and backward of one batch; a loss that is not finite stops before the optimizer sees it."""
        loss: torch.Tensor = super().training_step(model, inputs, num_items_in_batch)
        # A plugin's collator may not count; then padding is counted as well.
        self._tokens += inputs["input_ids"].numel() if self._batch_tokens is None else self._batch_tokens.sum()
        # Before the optimizer: afterwards every weight is NaN, and the cause is gone.
        if self.stop_on_nonfinite and most(int(not math.isfinite(loss.item()))):
            self._raise_nonfinite(loss.item())
        if self.accelerator.sync_gradients:
            with _unscaled(self.accelerator.scaler if self.run.listens("pre_gradient_clip") else None, self.model):
                self.run.hook.pre_gradient_clip(run=self.run, trainer=self, step=self.state.global_step + 1)
        return loss

    def _raise_nonfinite(self, loss: float) -> None:
        step = self.state.global_step + 1
        if math.isfinite(loss):
            text = f"another rank's loss is not finite at step {step}"
        else:
            text = f"the loss is {loss} at step {step}, in {self.describe_rows(self._row_ids)}"
        raise TrainingError(
            text,
            hint="lower trainer.learning_rate, look at these rows with `longline preview`, or set nonfinite_loss: continue",
        )

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Ask whoever answered provide_loss."""
        loss, outputs = self.loss_function(self, model, inputs, num_items_in_batch)
        return (loss, outputs) if return_outputs else loss

    def method_loss(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Any:
        """Return the method's own loss and the model's outputs: the core's answer to provide_loss."""
        return super().compute_loss(model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)

    def fed(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """What the model is fed for some rows: through the collator, and as every batch is prepared, but for the labels."""
        return {name: value for name, value in self._prepare_inputs(self.data_collator(rows)).items() if name != "labels"}

    def packed_logits(self, inputs: dict[str, Any]) -> torch.Tensor:
        """The logits [rows, length, vocabulary] that the loss would see, by which it is learnt whether packed samples mix."""
        logits: torch.Tensor = self.model(**inputs).logits  # type: ignore[misc]
        return logits

    def prediction_step(self, model: Any, inputs: dict[str, Any], prediction_loss_only: bool, *args: Any, **kwargs: Any) -> Any:
        """Evaluate one batch; a loss that saves itself logits is told whether somebody wants them."""
        self.wants_logits = not prediction_loss_only
        try:
            return super().prediction_step(model, inputs, prediction_loss_only, *args, **kwargs)
        finally:
            self.wants_logits = False

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the number of tokens trained on so far, padding left out, over all ranks."""
        if "loss" in logs:
            logs["num_tokens"] = int(self.accelerator.gather(self._tokens.reshape(1)).sum().item())
        super().log(logs, start_time)

    def count_tokens_from(self, history: list[dict[str, float]]) -> int:
        """Go on counting where the log of a resumed run ended; returns how many tokens that is."""
        before = next((int(event["num_tokens"]) for event in reversed(history) if "num_tokens" in event), 0)
        self._tokens.fill_(before if self.is_world_process_zero() else 0)
        return before

    def between_steps(self) -> dict[str, Any]:
        """What this rank has of the steps that are done and neither told nor used up: plain values and tensors."""
        return {**upstream.transformers.between_logs(self), "tokens": self._tokens}

    def take_up(self, kept: Mapping[str, Any]) -> None:
        """Go on with what `between_steps` told."""
        upstream.transformers.log_from(self, kept)
        self._tokens.copy_(kept["tokens"])

    # --- what was trained on ----------------------------------------------------------------------------------------------------

    @property
    def noting(self) -> bool:
        """Whether rows are wanted for on_completions: somebody listens, and this is training, not evaluation."""
        return self._heard and bool(self.model.training)  # type: ignore[union-attr]

    def note(self, rows: Callable[[], Iterable[dict[str, Cell]]]) -> None:
        """Keep what makes rows, all with the same columns, for the on_completions of this step; called when the step is done.

        Rows are in the order of the batch's, and get its further columns that are one number or text for each row.
        """
        kept = self.kept_cells()
        self._noted.append(lambda: _beside(rows(), kept))

    def kept_cells(self) -> list[dict[str, Cell]]:
        """The further columns of each row of the batch at hand that a cell can hold; empty when there are none."""
        names = [name for name in self._cells if name in self.columns]
        values = [self.columns[name] for name in names]
        lists = [value if isinstance(value, list) else value.tolist() for value in values]
        return [dict(zip(names, row, strict=True)) for row in zip(*lists, strict=True)]

    def take_noted(self) -> list[dict[str, Cell]]:
        """The rows noted since the last call, on all ranks; every rank must call it. What it costs is in the account."""
        if not self._heard:
            return []
        begin = time.perf_counter()
        noted, self._noted = self._noted, []
        rows = [row for make in noted for row in make()]
        gathered: list[dict[str, Cell]] = gather_object(rows) if self.args.world_size > 1 else rows
        # Decoding is done for whoever listens, so it is told beside what the hooks cost.
        cost = self.run.account.open("longline:rows", "on_completions", core=True)
        cost.calls += 1
        cost.seconds += time.perf_counter() - begin
        return gathered

    # --- optimizer and scheduler ------------------------------------------------------------------------------------------------

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Ask whoever answers provide_optimizer, once."""
        if self.optimizer is None:
            target = self.model if model is None else model
            self.optimizer = self.run.hook.provide_optimizer(run=self.run, trainer=self, model=target)
        return self.optimizer

    def method_optimizer(self, model: Any) -> torch.optim.Optimizer:
        """Return what `trainer.optim` names: the core's answer to provide_optimizer."""
        return super().create_optimizer(model)

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """Ask whoever answers provide_scheduler, once."""
        if self.lr_scheduler is None:
            target = self.optimizer if optimizer is None else optimizer
            left = max(1, num_training_steps - (self.begins_anew_at or 0))
            self.lr_scheduler = self.run.hook.provide_scheduler(
                run=self.run, trainer=self, optimizer=target, num_training_steps=left
            )
        return self.lr_scheduler

    def method_scheduler(
        self, optimizer: torch.optim.Optimizer, num_training_steps: int
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """Return what `trainer.lr_scheduler_type` names: the core's answer to provide_scheduler."""
        return super().create_scheduler(num_training_steps, optimizer)

    # --- checkpoints ------------------------------------------------------------------------------------------------------------

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        """An evaluation that a signal ended is followed by the checkpoint that the signal promised."""
        before = torch.get_rng_state()
        try:
            super()._maybe_log_save_evaluate(*args, **kwargs)
        except EvaluationStoppedError:
            torch.set_rng_state(before)  # a resumed run evaluates from here
            self._save_checkpoint(self.model_wrapped, None)
            self.control = self.callback_handler.on_save(self.args, self.state, self.control)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Leave out both where only the weights are wanted."""
        if self.begins_anew_at is None:
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Evaluate what the checkpoint owes before the next step, where the run that was not interrupted did.

        Raises:
            NothingLeftError: that evaluation stopped the run.
        """
        super()._load_rng_state(checkpoint)
        if not self.owes_evaluation:
            return
        self.owes_evaluation = False
        self.control.should_evaluate = self.control.should_save = True
        self._maybe_log_save_evaluate(torch.zeros(()), None, self.model, None, self.state.epoch, None, time.time())
        if self.control.should_training_stop:
            raise NothingLeftError(nothing_left(self) or "a callback ended the run")

    def _get_output_dir(self, trial: Any) -> str:
        """Where checkpoints go: the staging folder while one is written."""
        return str(self._staging or super()._get_output_dir(trial))

    _staging: Path | None = None

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write the checkpoint beside the run's others and rename it when it is whole.

        Raises:
            TrainingError: it could not be written; earlier checkpoints are untouched.
        """
        run_dir = Path(str(self.args.output_dir))
        name = f"checkpoint-{self.state.global_step}"
        # A checkpoint that has its name is whole: resuming needs no guess, and a full disk or a kill loses only the new one.
        staging, final = run_dir / artifacts.STAGING, run_dir / name
        if self.args.should_save:
            shutil.rmtree(staging, ignore_errors=True)
        self.accelerator.wait_for_everyone()  # before another rank writes into what is being deleted
        self._staging = staging
        try:
            super()._save_checkpoint(model, trial)
            self._record_best(staging, run_dir)
            if self.args.should_save:
                checkpoint.write_record(staging / name, self.record())
            torch.save(self.between_steps(), staging / name / between_steps(self.run.rank))
            plugin_states.write(staging / name, self.run.plugins, self.run.rank, self.run.world_size)
            self.accelerator.wait_for_everyone()
        except Exception as error:
            shutil.rmtree(staging, ignore_errors=True)
            raise artifacts.not_written(error, final) from error
        finally:
            self._staging = None
        if self.args.should_save:
            artifacts.publish(staging / name, final)
            shutil.rmtree(staging, ignore_errors=True)
            artifacts.prune(run_dir, self.args.save_total_limit, self.state.best_model_checkpoint)
        self.accelerator.wait_for_everyone()

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """Leave out training_args.bin: a pickle that may hold a hub token, and that nothing needs."""
        folder = Path(str(output_dir or self.args.output_dir))
        self.whole = _gathered(state_dict)
        if self.args.should_save and isinstance(self.model, PreTrainedModel):
            folder.mkdir(parents=True, exist_ok=True)
            endings.keep(self.model, folder)
        with _as_in_memory(self.model) if self._staging else nullcontext():
            super()._save(output_dir, self.whole)
        self.whole = None
        (folder / upstream.transformers.ARGUMENTS_FILE).unlink(missing_ok=True)
        if (folder / starts.CONFIG).is_file():
            endings.write(self.accelerator.unwrap_model(self.model), folder)
        if self.start and self.args.should_save:
            starts.pack(folder, self.start)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Load an adapter, and what it had taken from the base; anything else as the base class does."""
        if not starts.unpack(model or self.model, Path(resume_from_checkpoint), self.start):
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        """The same for the best checkpoint."""
        if not starts.unpack(self.model, Path(str(self.state.best_model_checkpoint)), self.start):
            super()._load_best_model()

    def _record_best(self, staging: Path, run_dir: Path) -> None:
        """The base class looked for the best checkpoint in the staging folder: name its real place, in the saved state too."""
        step = self.state.best_global_step
        if not step:
            return
        name = f"checkpoint-{step}"
        if (staging / name).is_dir() or (run_dir / name).is_dir():
            self.state.best_model_checkpoint = str(run_dir / name)
        if self.args.should_save:
            state = staging / f"checkpoint-{self.state.global_step}" / upstream.transformers.STATE_FILE
            self.state.save_to_json(str(state))


@contextmanager
def _as_in_memory(model: Any) -> Iterator[None]:
    """Weights are saved under the names that they have in memory, which are those that a checkpoint is looked through for.

    What a model is published with may be others: each expert by itself, parts under another prefix. transformers turns them
    round when a model is loaded, and not when a run goes on, which then goes on with the base's experts, and a warning.
    """
    if isinstance(model, PreTrainedModel):
        model.save_pretrained = partial(model.save_pretrained, save_original_format=False)  # type: ignore[method-assign]
    try:
        yield
    finally:
        vars(model).pop("save_pretrained", None)


@contextmanager
def _unscaled(scaler: Any, model: Any) -> Iterator[None]:
    """Gradients without the scale that float16 is trained with: the scaler itself takes it away once a step, when they are clipped.

    It is a power of two, so they come back as they were.
    """
    scale = scaler.get_scale() if scaler else 1.0
    held = [parameter.grad for parameter in model.parameters() if parameter.grad is not None] if scale != 1 else []
    for gradient in held:
        gradient.div_(scale)
    yield
    for gradient in held:
        gradient.mul_(scale)


def _beside(rows: Iterable[dict[str, Cell]], kept: Sequence[dict[str, Cell]]) -> Iterator[dict[str, Cell]]:
    """Rows with what was kept for each; what the trainer itself says of a row comes first."""
    for number, row in enumerate(rows):
        yield {**row, **{name: value for name, value in kept[number].items() if name not in row}} if kept else row


def _gathered(state_dict: dict[str, Any] | None) -> dict[str, Any] | None:
    """Whole tensors on the CPU in place of shards; a collective when there are any."""
    if state_dict is None:
        return None
    return {name: tensor.full_tensor().cpu() if isinstance(tensor, DTensor) else tensor for name, tensor in state_dict.items()}
