"""The last stage, saving the final model; and its rehearsal, which finds out before the first step what only the last would."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from longline import artifacts
from longline.config.paths import absolute, looks_local
from longline.errors import TrainingError

if TYPE_CHECKING:
    from longline.plugins.run import State


def shapers(state: State) -> str:
    """The plugins that may make a loaded model another one than its files say."""
    hooks = ("pre_model_load", "provide_model", "post_model_load")
    return ", ".join(plugin.name for plugin in state.plugins if any(hasattr(plugin.instance, hook) for hook in hooks))


def rehearse(state: State, trainer: Any) -> None:
    """Write everything small that saving will write, once, and throw it away.

    Raises:
        ModelError: some of it cannot be written.
        ConfigError: the run folder cannot be.
    """
    if state.is_main:
        artifacts.rehearse(state.plan.model_dir, {**_small(trainer), "model card": _card(state)})


def save(state: State, trainer: Any) -> None:
    """Write the final model, whole or not at all; every rank takes part in gathering shards.

    Raises:
        TrainingError: it cannot be written, or what was written is another model than the one in memory.
    """
    from longline.model import switch_cache
    from longline.weights import likeness

    state.phase = "save"
    run, plan = state.view, state.plan
    bare = trainer.accelerator.unwrap_model(trainer.model)
    plainly = partial(_save_plainly, trainer) if state.is_main else None
    with artifacts.keeping(plan.model_dir, trainer.state.global_step, plainly):
        # The trainer switched the cache off; whoever loads the model wants to generate with it.
        switch_cache(bare.config, on=True)
        run.hook.pre_save(run=run, model=bare)
        # Shards are gathered by the wrapped model alone, and on all ranks.
        whole = trainer.model_wrapped if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled else bare
        seen = likeness.tried(whole, likeness.sample(trainer.processing_class))
        if state.is_main:

            def finish(path: Path) -> None:
                run.hook.post_save(run=run, path=path)
                _load_again(state, trainer, bare, seen, path)

            artifacts.save_model(plan.model_dir, trainer.save_final, _card(state), finish)
        else:
            trainer.save_final(plan.model_dir)  # writes nothing
    trainer.accelerator.wait_for_everyone()


def _small(trainer: Any) -> dict[str, artifacts.Write]:
    """What a save writes beside weights, by what it is called."""
    return {"config": partial(_write_config, trainer.model), "tokenizer": trainer.processing_class.save_pretrained}


def _write_config(model: Any, folder: Path) -> None:
    from peft import PeftModel
    from transformers import PreTrainedModel

    from longline.adapters import start
    from longline.weights import endings

    if isinstance(model, PeftModel):
        model.create_or_update_model_card(str(folder))
        model.peft_config[start.ADAPTER].save_pretrained(str(folder))
        endings.write(model, folder)
    elif isinstance(model, PreTrainedModel):
        endings.keep(model, folder)
        model.save_pretrained(str(folder), state_dict={})


def _save_plainly(trainer: Any, folder: Path) -> None:
    """Write the weights with nothing that could go wrong, and then what else can be written; for the main rank alone.

    Raises:
        TrainingError: ranks hold parts of the weights, and did not gather them.
    """
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors.torch import save_file

    from longline import upstream
    from longline.adapters import start

    if trainer.whole is None and (trainer.is_fsdp_enabled or upstream.transformers.has_partitioned_weights()):
        raise TrainingError("the weights are spread over ranks")
    state, file = trainer.whole or trainer.model.state_dict(), "model.safetensors"
    if isinstance(trainer.model, PeftModel):
        state, file = get_peft_model_state_dict(trainer.model, state, adapter_name=start.ADAPTER), start.WEIGHTS
    alone = {(value.data_ptr(), value.shape): name for name, value in reversed(state.items())}  # what is tied, once
    save_file({name: state[name].contiguous() for name in alone.values()}, folder / file, metadata={"format": "pt"})
    for write in _small(trainer).values():
        with suppress(Exception), TemporaryDirectory(dir=folder) as part:
            write(Path(part))
            for path in Path(part).iterdir():  # none that is half written
                path.rename(folder / path.name)
    if trainer.start:
        start.pack(folder, trainer.start)


def _card(state: State) -> artifacts.Write:
    config = state.loaded.config
    adapter = config.adapter.type if config.adapter else None
    base = absolute(config.model.path) if looks_local(config.model.path) else config.model.path
    # How fast it went, and whatever else plugins measure, is not what the model is like.
    metrics = {name: value for name, value in state.summary.metrics.items() if name not in state.added_metrics}
    return artifacts.card_writer(artifacts.model_card(state.plan, base, adapter, metrics, state.resolved, state.told))


def _load_again(state: State, trainer: Any, model: Any, seen: Any, path: Path) -> None:
    """Compare what was saved in `path` with the logits of the model in memory; keep what is another under a name that says so."""
    from longline.saving import reload

    run, plan, args = state.view, state.plan, trainer.args
    saved = reload.Saved(path, state.loaded.config.model, plan.dtype, run.output)
    try:
        rounded = args.bf16 or args.fp16 or bool(args.tf32)
        found = saved.differs(model, trainer.processing_class, seen, autocast=rounded)
    except reload.NotComparedError as why:
        run.alert("the saved model was not loaded again", str(why), "info")
        return
    text, shaping = f"the saved model is not the one that was trained: {found}", shapers(state)
    if found and shaping:
        run.alert("the saved model", f"{text}, where {shaping} does not take part when it is loaded")
    elif found:
        kept = plan.model_dir.with_name(artifacts.UNFINISHED)
        artifacts.publish(path, kept)
        raise TrainingError(text, hint=f"it is kept in {kept}; complete checkpoints: {artifacts.complete(plan.output_dir)}")
