"""What each stage does, with a bus in hand: the same for every command, so that evaluating sees what training saw.

Each function takes the state of a run, fires the hooks of its stage and returns what it made. `run.py` says in which order.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from pydantic import ValidationError

from longline import upstream
from longline.config.explain import explain_values
from longline.config.sections import ModelSection
from longline.errors import ConfigError, DataError, PluginError
from longline.methods import brought_by
from longline.parallel import ranks
from longline.plan import build_plan
from longline.plugins import plugin_problems, refuse_problems
from longline.plugins.run import TRAINS
from longline.resuming import identity

if TYPE_CHECKING:
    from peft import PeftConfig

    from longline.config.sections import AdapterSection
    from longline.data import Prepared
    from longline.events import Column, RewardFunction, Role
    from longline.plugins.run import State

OWN_ARGUMENTS = {"report_to": "none", "disable_tqdm": True, "remove_unused_columns": False, "logging_nan_inf_filter": False}
"""What Longline tells every trainer: it has its own log, progress and guard of the loss, and its own columns."""


@dataclass(frozen=True, slots=True)
class Ingredients:
    """What the stages before the trainer made."""

    tokenizer: Any
    data: Prepared
    model: Any
    reference: Any
    rewards: Sequence[RewardFunction]


# --- the trainer's arguments ----------------------------------------------------------------------------------------------------


def trainer_arguments(state: State) -> dict[str, Any]:
    """Let plugins change the trainer's keyword arguments, and build the plan from what they left: there is one truth."""
    state.phase = "arguments"
    run, config = state.view, state.loaded.config
    given = {**state.plan.trainer_args, "output_dir": str(state.plan.output_dir), **OWN_ARGUMENTS}
    if config.early_stopping:
        given.setdefault("metric_for_best_model", "loss")
    final = dict(given)
    run.hook.pre_trainer_args(run=run, trainer_args=final)
    state.replan(build_plan(config, state.plan.machine, final))
    if final != given and state.command in TRAINS:
        refuse_problems(plugin_problems(state.loaded, state.plan, state.plugins))
    return final


def arguments(state: State) -> Any:
    """Build the arguments object: what its class refuses is known before anything is loaded."""
    from transformers import logging as transformers_logging

    from longline.trainers.trying import try_optimizer

    final = trainer_arguments(state)
    transformers_logging.set_verbosity(logging.WARNING)
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    args: Any = state.view.method.build_arguments(final)
    if state.command in TRAINS:
        try_optimizer(args)
    if args.n_gpu > 1:
        # Otherwise transformers would spread each batch over all of them by threads, which is slow and changes the batch.
        state.view.alert("one GPU is used", f"this machine has {args.n_gpu}; --nproc {args.n_gpu} trains on all of them")
        upstream.transformers.use_one_gpu(args)
    return args


def rewards(state: State) -> Sequence[RewardFunction]:
    """Import what scores answers before anything is loaded: a typo shall not cost the loading of a model."""
    run = state.view
    if not run.method.draws_answers:
        return ()
    from longline.methods.rewards import refuse_names

    found: Sequence[RewardFunction] | None = run.hook.provide_reward_functions(run=run)
    if not found:
        raise ConfigError(f"{run.method.name} needs at least one reward function", hint="rewards: [reasoning_gym], or your own")
    refuse_names(found)
    return found


# --- tokenizer and data ---------------------------------------------------------------------------------------------------------


def tokenizer(state: State) -> Any:
    """Load the tokenizer of the config."""
    from longline import model as models

    state.phase = "tokenizer"
    run, section = state.view, state.loaded.config.model
    kwargs = models.tokenizer_kwargs(section)
    run.hook.pre_tokenizer_load(run=run, tokenizer_kwargs=kwargs)
    made = models.load_tokenizer(section, kwargs)
    state.load_tokenizer = lambda path, options: models.load_tokenizer(_section(state, path, options, "load_tokenizer"))
    run.hook.post_tokenizer_load(run=run, tokenizer=made)
    return made


def data(state: State, tokenizer: Any, *, alone: bool = False) -> Prepared:
    """Prepare the data or take it from the cache, and let plugins put other splits in its place.

    `alone`: every sample is a row, whatever `data.packing` says.
    """
    from longline.data import prepare
    from longline.data.kinds import load as load_kind

    state.phase = "data"
    run, config = state.view, state.loaded.config
    run.hook.pre_data_load(run=run)
    with ranks.main_rank_first():
        prepared = prepare(
            config.data,
            tokenizer,
            kind=load_kind(run.method.kind),
            packing=None if alone else state.plan.packing,
            seed=state.plan.seed,
            columns=_asked_for(state),
            brought_by=brought_by(run.method.name),
        )
        state.columns = prepared.columns
        prepared = replace(prepared, train=_split(state, prepared, "train"), eval=_split(state, prepared, "eval"))
    if run.output == "score":
        _score_ends(state, tokenizer, prepared)
    if state.command == "train":
        _count_steps(state, len(prepared.train))
    state.summary = replace(state.summary, data=prepared.report.to_dict())
    run.hook.post_data_load(run=run, data=prepared)
    return prepared


def _score_ends(state: State, tokenizer: Any, prepared: Prepared) -> None:
    """See to it that texts are scored where they end."""
    from longline.data import scoring

    splits = [split for split in (prepared.train, prepared.eval) if split is not None]
    found = scoring.pad_apart(tokenizer, splits, named=state.loaded.config.model.tokenizer.pad_token)
    if found:
        state.view.fact(
            "pads with", found[0], f"{found[1]} texts end with the token that padded, and scores are read where texts end"
        )


def _asked_for(state: State) -> list[Column]:
    """The further columns that the method and plugins ask for; one that several want in the same form is there once."""
    wanted = {column.name: column for column in state.method.columns}
    for plugin in state.plugins:
        for column in plugin.instance.columns:
            if wanted.setdefault(column.name, column) != column:
                text = f"{plugin.label} asks for the column {column.name!r} in another form than something else does"
                raise PluginError(text, hint=plugin.remedy)
    return list(wanted.values())


def _count_steps(state: State, rows: int) -> None:
    try:
        state.replan(state.plan.with_rows(rows))
    except ValueError as error:
        hint = "add prompts, or lower per_device_train_batch_size, gradient_accumulation_steps or steps_per_generation"
        raise DataError(f"too few rows to train on: {error}", hint=hint) from error
    again = state.method.repeated(rows, state.plan)
    if again:
        why = (
            f"{rows} rows don't fill the batches of {state.plan.world_size} ranks; trainer.dataloader_drop_last leaves rows out"
        )
        state.view.fact("used twice", f"{again} rows in each epoch", why)


def _split(state: State, prepared: Prepared, split: str) -> Any:
    """One split as whoever answers provide_dataset leaves it."""
    dataset = prepared.train if split == "train" else prepared.eval
    if dataset is None:
        return None
    run = state.view
    answer = run.hook.provide_dataset(run=run, dataset=dataset, split=split)
    if answer is dataset or answer is None:
        return dataset
    who = state.bus.provided["provide_dataset"]
    missing = sorted(set(dataset.column_names) - set(answer.column_names))
    if missing or not len(answer):
        what = f"lacks the column {', '.join(missing)}" if missing else "has no rows"
        raise PluginError(f"plugin {who!r} answered provide_dataset with {split} data that {what}", hint=f"remove {who!r}")
    report = prepared.report.train if split == "train" else prepared.report.eval
    if report is not None:
        report.rows = len(answer)
    run.fact(f"{split} data", f"{len(answer)} rows", f"changed by plugin {who!r}, from {len(dataset)}")
    return answer


# --- models ---------------------------------------------------------------------------------------------------------------------


def load(state: State, section: ModelSection, role: Role, dtype: str | None = None) -> Any:
    """Load one model with its hooks; `post_model_load` is the caller's, who may have to do something first."""
    from transformers import set_seed

    from longline import model as models

    run, plan = state.view, state.plan
    # New embeddings and adapters start from random numbers: the same ones in every run of this config, on every rank, and in
    # policy and reference.
    set_seed(plan.seed)
    kwargs = models.model_kwargs(section, dtype or plan.dtype, run.output)
    run.hook.pre_model_load(run=run, model_kwargs=kwargs, role=role)
    made = run.hook.provide_model(run=run, model_kwargs=kwargs, role=role)
    state.models[role] = identity.of_model(made)
    return made


POLICY, REFERENCE = "policy", "reference"


def model(state: State, args: Any, tokenizer: Any) -> Any:
    """Load the policy and put the adapter on."""
    from longline.trainers.names import refuse_unmatched
    from longline.weights import vocabulary

    state.phase = "model"
    state.load_model = _loader(state)
    run, config = state.view, state.loaded.config
    made = load(state, config.model, POLICY)
    rows = vocabulary.grow(made, tokenizer)
    state.replan(state.plan.with_attention(str(upstream.transformers.attention_of(made)), type(made).__name__))
    refuse_unmatched(state.loaded, made)
    run.hook.post_model_load(run=run, model=made, role=POLICY)
    return made if config.adapter is None else _adapted(state, args, tokenizer, made, rows)


def _adapted(state: State, args: Any, tokenizer: Any, bare: Any, rows: range) -> Any:
    """The policy with its adapter on, which is seen to be the model that it was."""
    from longline import model as models
    from longline.adapters import start as starts
    from longline.weights import likeness, vocabulary

    run, config = state.view, state.loaded.config
    wanted = models.adapter_config(cast("AdapterSection", config.adapter), run.output)
    added = tokenizer.convert_tokens_to_ids(config.model.tokenizer.add_tokens)
    vocabulary.train_rows(wanted, bare, {*rows, *added})
    run.hook.pre_adapter_create(run=run, adapter_config=wanted)
    tokens = likeness.sample(tokenizer)
    before = likeness.tried(bare, tokens)
    made = _attached(state, bare, wanted)
    state.start = starts.settle(made, before, tokens, referred=run.method.has_reference(args))
    run.hook.post_adapter_create(run=run, model=made)
    return made


def _attached(state: State, made: Any, wanted: PeftConfig) -> Any:
    """Put the adapter on, if every name in it matches something."""
    from longline import model as models
    from longline.adapters import names as adapter_names

    names, asked = adapter_names.Names.of(made), deepcopy(wanted)
    try:
        return models.attach_adapter(made, wanted, activation_checkpointing=state.plan.checkpointing)
    finally:  # also where peft raises: a name that matches nothing is the better reason
        adapter_names.refuse_unmatched(state.loaded, asked, wanted, names)
        if left := adapter_names.forgotten_experts(asked, wanted, names):
            text = (
                f"{', '.join(left)} are parameters, no modules; adapter.target_parameters: [{', '.join(left)}] trains them too"
            )
            state.view.alert("the experts get no adapter", text)


def reference(state: State, args: Any, tokenizer: Any) -> Any:
    """Load what the policy is compared with; under an adapter it is the policy with the adapter switched off."""
    if state.loaded.config.adapter is not None or not state.view.method.has_reference(args):
        return None
    return _frozen(state, state.loaded.config.model, REFERENCE, tokenizer=tokenizer)


def _frozen(state: State, section: ModelSection, role: Role, dtype: str | None = None, *, tokenizer: Any = None) -> Any:
    """A further model, with rows for all tokens of the `tokenizer` if that is the one that it is asked in."""
    from longline.weights import vocabulary

    made = load(state, section, role, dtype)
    if tokenizer is not None:
        vocabulary.grow(made, tokenizer)
    made.requires_grad_(False).eval()
    state.view.hook.post_model_load(run=state.view, model=made, role=role)
    return made


def _loader(state: State) -> Callable[[str, Role, Mapping[str, Any]], Any]:
    """What `run.load_model` calls: a further model, placed as soon as there is a trainer that places."""

    def load_further(path: str, role: Role, options: Mapping[str, Any]) -> Any:
        section = _section(state, path, options, "load_model")
        dtype = None if section.dtype == "auto" else section.dtype
        made = _frozen(state, section, role, dtype)
        state.further.append(made)
        if state.trainer is not None:
            state.trainer.place(made)
        return made

    return load_further


def _section(state: State, path: str, options: Mapping[str, Any], asked: str) -> ModelSection:
    """The `model` section of a further model: what is not said is as for the policy. Raises ConfigError."""
    own = state.loaded.config.model
    inherited = {name: getattr(own, name) for name in ("dtype", "attn_implementation", "trust_remote_code", "token")}
    try:
        return ModelSection(**{**inherited, **options, "path": path})
    except ValidationError as error:
        raise ConfigError(f"run.{asked}({path!r}): {explain_values(error)}") from error


# --- the trainer ----------------------------------------------------------------------------------------------------------------


def trainer(state: State, args: Any, made: Ingredients) -> Any:
    """Build the trainer of the method, with what plugins and core answer, and place the further models."""
    from transformers import EarlyStoppingCallback

    from longline.model import switch_cache
    from longline.trainers import Parts

    state.phase = "trainer"
    run, config = state.view, state.loaded.config
    parts = Parts(
        model=made.model,
        reference=made.reference,
        tokenizer=made.tokenizer,
        train=made.data.train,
        eval=made.data.eval,
        rewards=made.rewards,
        describe_rows=lambda rows: ", ".join(made.data.origin("train", row) for row in rows),
        trainer_class=run.hook.provide_trainer_class(run=run),
        collator=run.hook.provide_collator(run=run, tokenizer=made.tokenizer),
    )
    _stop_as_learnt(state, made)
    loss = run.hook.provide_loss(run=run, model=made.model)
    _look_for_unreached(state, args, made)
    built: Any = run.method.build(parts, args)
    built.attach(run, loss, parts.describe_rows, state.start)
    switch_cache(made.model.config, bool(args.use_cache))
    for further in state.further:
        built.place(further)
    state.trainer = built
    if config.early_stopping:
        built.add_callback(EarlyStoppingCallback(config.early_stopping.patience, config.early_stopping.threshold))
    run.hook.post_trainer_create(run=run, trainer=built)
    return built


def _stop_as_learnt(state: State, made: Ingredients) -> None:
    """Let the model end with the tokens that it learns to end with: a base knows its own alone, and would go on behind others."""
    from longline.weights import endings

    if state.view.output != "tokens":
        return
    tokens = {int(made.tokenizer.convert_tokens_to_ids(token)): token for token in made.data.report.ends}
    new = endings.join(made.model, list(tokens))
    if new:
        ends = ", ".join(tokens[token] for token in new)
        state.view.fact("answers end with", ends, "as the data has it; joins eos_token_id in generation_config.json")


def _look_for_unreached(state: State, args: Any, made: Ingredients) -> None:
    """Keep ranks with whole copies from waiting for gradients of what a text does not reach, as towers for pictures."""
    from longline.weights import likeness, reach

    name, run = "ddp_find_unused_parameters", state.view
    if run.world_size == 1 or args.fsdp or args.deepspeed or name in run.config.trainer:
        return
    names = reach.unreached(made.model, likeness.sample(made.tokenizer)[:1])
    if ranks.most(len(names)):
        setattr(args, name, True)
        run.fact(name, "true", f"{len(names)} weights have no part in a text, as {names[0]}" if names else "some rank needs it")
