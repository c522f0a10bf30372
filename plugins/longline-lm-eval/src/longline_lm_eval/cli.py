"""`longline lm-eval TARGET`: a run, a config or a model, evaluated by the harness."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from longline.cli.options import set_option
from longline.errors import ConfigError
from longline_lm_eval.config import LmEvalConfig

if TYPE_CHECKING:
    from longline.inference.target import Target

EXIT_FAILED = 1
NAME = "lm-eval"


@click.command(NAME)
@click.argument("target")
@set_option
@click.option("--tasks", metavar="NAME,...", help="Tasks, groups, tags, patterns, or paths of YAML tasks.")
@click.option("--include-path", multiple=True, type=click.Path(path_type=Path), help="A folder with YAML tasks of your own.")
@click.option("--num-fewshot", type=click.IntRange(min=0), help="Examples before a question.")
@click.option("--batch-size", metavar="N|auto", help="Requests at a time.")
@click.option("--limit", type=float, help="Only the first rows of each task: how many, or below 1 which share.")
@click.option("--apply-chat-template", is_flag=True, default=None, help="Ask in the model's chat template.")
@click.option("--gen-kwargs", metavar="KEY=VALUE,...", help="Arguments of generation over those of the tasks.")
@click.option("--log-samples", is_flag=True, default=None, help="Keep every question with its answers beside the results.")
@click.option("--output", type=click.Path(path_type=Path, file_okay=False), help="The folder for results.json.")
@click.option("--model", help="Evaluate this model in place of the run's.")
@click.option("--merged", is_flag=True, default=None, help="Add the adapter to the weights first.")
@click.option("--strict", is_flag=True, default=None, help="A task that needs the network is an error, and one that fails.")
@click.option("--confirm-run-unsafe-code", is_flag=True, default=None, help="Run tasks that execute what the model writes.")
@click.option("--base", is_flag=True, help="Of a run: the model before tuning.")
@click.option("--checkpoint", metavar="NAME", help="Of a run: this checkpoint, such as checkpoint-100.")
def command(target: str, overrides: tuple[str, ...], base: bool, checkpoint: str | None, **given: Any) -> int:
    """Evaluate TARGET with EleutherAI's harness: a run folder, a config, a folder with a model, or an id on the hub.

    What is not said here is as the plugin's options in the config say. Of a run or a config the model is chosen in this order:
    --model or the plugin's `model`, the run's own, the model as it came. Exit status: 0 there are results, 1 there are none, or
    with --strict one is lacking, 2 the target or a task is none.
    """
    from longline_lm_eval import results, tasks

    chosen = _choose(target, overrides, given, base=base, checkpoint=checkpoint)
    options = chosen.options
    if place := chosen.place():
        results.require_writable(place)
    loaded = tasks.load(options)
    for name, why in loaded.skipped.items():
        click.echo(f"warning: the task {name} is left out: {why}", err=True)
    click.echo(f"evaluating {chosen.found.name}: {chosen.why}")
    made = _evaluated(chosen, loaded)
    if made.results:
        click.echo("\n".join(f"  {line}" for line in results.lines(results.rows(made.results))))
        if place:
            click.echo(f"  written to {results.write(made.results, made.tracker, place)}")
    for name, why in made.failed.items():
        click.echo(f"error: {name} has no result: {why}", err=True)
    return EXIT_FAILED if (options.strict and made.failed) or not made.results else 0


@dataclass(frozen=True, slots=True)
class _Chosen:
    """What is evaluated, and why it is that."""

    found: Target
    options: LmEvalConfig
    why: str

    def place(self) -> Path | None:
        """The folder for the results: a model that is nobody's run has one only if it is given."""
        run_dir = self.found.run_dir
        named = self.found.weights.name if self.found.weights else "base"
        return self.options.output or (run_dir / "lm_eval" / named if run_dir else None)


def _choose(target: str, overrides: tuple[str, ...], given: dict[str, Any], *, base: bool, checkpoint: str | None) -> _Chosen:
    """The model, in the order that the command tells."""
    from longline.inference.target import find_target

    path = Path(target).expanduser()
    run_dir = _run_of(path, overrides)
    of_run = run_dir is not None and not base
    found = find_target(str(run_dir or target), "evaluate", overrides, base=base and run_dir is not None, checkpoint=checkpoint)
    options = _options(found, given)
    if options.model and not base and not checkpoint:
        why = "--model" if given["model"] else "`model` of the plugin's options"
        return _Chosen(find_target(options.model, "evaluate"), options, why)
    if of_run and found.weights:
        return _Chosen(found, options, "the run's checkpoint" if checkpoint else "the run's trained model")
    return _Chosen(found, options, "the model as it came" if found.loaded else "as it is")


def _run_of(path: Path, overrides: tuple[str, ...]) -> Path | None:
    """The folder of the run that a path stands for: the path, or what the config's run has left if it ended."""
    from longline.config.loader import load_config

    if path.is_dir():
        return path if (path / "run.json").is_file() else None
    if path.suffix not in (".yaml", ".yml"):
        return None
    folder = load_config(path, list(overrides), data_files=False).config.output_dir
    return folder if (folder / "run.json").is_file() and (folder / "model").is_dir() else None


def _options(found: Target, given: dict[str, Any]) -> LmEvalConfig:
    """The plugin's options in the config, if it is named there, with what was given on the command line over them."""
    from pydantic import ValidationError

    own = next((plugin.options for plugin in found.run.plugins if plugin.name == NAME), None)
    said = {name: value for name, value in given.items() if value not in (None, ())}
    if isinstance(said.get("include_path"), tuple):
        said["include_path"] = list(said["include_path"])
    values = {**(own.model_dump() if own else {}), **said}
    if "tasks" not in values:
        raise ConfigError("no task is named", hint="--tasks hellaswag,arc_easy, or the plugin's options in the config")
    try:
        return LmEvalConfig(**values)
    except ValidationError as error:
        told = {str(fault["loc"][0]).replace("_", "-"): fault["msg"].removeprefix("Value error, ") for fault in error.errors()}
        faults = "; ".join(f"--{name}: {text}" for name, text in told.items())
        raise ConfigError(faults) from error


def _evaluated(chosen: _Chosen, loaded: Any) -> Any:
    from longline.inference.target import load
    from longline_lm_eval.evaluation import Evaluation
    from longline_lm_eval.ranks import Team

    model, tokenizer = load(chosen.found, _dtype(chosen.found))
    made = Evaluation(chosen.options, loaded, Team(), chosen.found.name, lambda *_: None)
    made.run(model, tokenizer)
    return made


def _dtype(found: Target) -> Any:
    """What a run would use, or has used; without one, what the weights are in: nothing is rounded to be measured."""
    from transformers import AutoConfig

    if found.run_dir:
        return "auto"
    if found.loaded:
        return found.run.plan.dtype
    try:
        config = AutoConfig.from_pretrained(found.name)
    except (OSError, ValueError, KeyError):
        return "auto"  # what is wrong with it is told by whoever loads it
    known = str(config.dtype).removeprefix("torch.")
    return known if known in ("float32", "bfloat16", "float16") else "auto"
