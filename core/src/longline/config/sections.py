"""The sections of a config file: what may be written, with types, defaults and meaning.

These models say what a value must look like; where it came from (file, line, override) is `loader`'s business, and whether
`trainer:` and `adapter:` name real fields of transformers and peft is checked in `fields`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr

from longline.config.going_on import BASE, ROWS, TAKES, UNTOLD, OnResume

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
TrainOn = Literal["assistant", "last_assistant", "completion", "all"]
TooLong = Literal["split", "truncate", "drop", "error"]
ToolArguments = Literal["strict", "empty", "as_is"]
SpecialTokens = Literal["keep", "escape", "refuse"]
Dropped = Literal["reasoning", "tools", "system", "keys"]
ColumnType = Literal["bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64", "text", "json"]


OTHER_EVAL = OnResume("takes", "what was best so far was measured on the other rows")
SHORT_FORMS: dict[tuple[str | int, ...], str] = {
    ("data", "train"): "path",
    ("data", "eval"): "path",
    ("data", "keep"): "name",
    ("rewards",): "function",
}
"""Lists for which one item may be written, and the key that a text in place of an item stands for."""


def _list_of(*keys: str) -> BeforeValidator:
    """Accepts the short forms of the list at `keys`."""

    def write_out(value: Any) -> Any:
        items = [value] if isinstance(value, (str, dict)) else value
        if not isinstance(items, list):
            return items
        return [{SHORT_FORMS[keys]: item} if isinstance(item, str) else item for item in items]

    return BeforeValidator(write_out)


class Section(BaseModel):
    """Base of every section: unknown keys are errors, values are fixed once read, descriptions come from docstrings."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, validate_default=True)


class TokenizerSection(Section):
    """What differs from the tokenizer that comes with the model."""

    path: str | None = None
    """Folder or hub id of another tokenizer."""
    chat_template: str | None = None
    """A Jinja chat template, or the path of a file that holds one; replaces the model's own."""
    pad_token: str | None = None
    """The token used for padding; it must exist in the vocabulary."""
    eos_token: str | None = None
    """The token that ends a turn or text; it must exist in the vocabulary."""
    add_tokens: Annotated[list[str], OnResume("refused", "the vocabulary has the rows of the others")] = []
    """New tokens; the embedding grows by as many rows."""


class ModelSection(Section):
    """The model that is tuned."""

    path: Annotated[str, Field(min_length=1), BASE]
    """A local folder, a `.gguf` file, or a hub id."""
    revision: Annotated[str | None, BASE] = None
    """Branch, tag or commit of a hub id."""
    gguf_file: Annotated[str | None, BASE] = None
    """Which GGUF file to take when `path` is a folder or hub id that holds some."""
    dtype: Annotated[Dtype, TAKES] = "auto"
    """The type of the weights. `auto`: where the device computes in bfloat16, that for a frozen base under an adapter, and float32
    with mixed precision (`trainer.bf16`) when all weights are trained; float32 alone elsewhere."""
    attn_implementation: Annotated[str | None, TAKES] = None
    """sdpa, eager, flex_attention, flash_attention_2/3/4, or the hub id of a kernel. Left out: sdpa where the model has it, else
    eager."""
    trust_remote_code: Annotated[bool, UNTOLD] = False
    """Run Python code that comes with the model. Only for sources you trust."""
    token: Annotated[SecretStr | None, UNTOLD] = None
    """Hub access token for gated models; `${HF_TOKEN}` reads it from the environment."""
    overrides: Annotated[dict[str, Any], TAKES] = {}
    """Values that replace fields of the model's own config, such as `rope_parameters` or `attention_dropout`."""
    quantization: Annotated[
        dict[str, Any] | None, OnResume("refused", "what is learnt belongs to the base as it was rounded")
    ] = None
    """Fields of transformers.BitsAndBytesConfig, such as `load_in_4bit: true`; makes LoRA a QLoRA."""
    tokenizer: Annotated[TokenizerSection, ROWS] = TokenizerSection()
    """What differs from the model's own tokenizer."""


class AdapterSection(BaseModel):
    """A peft adapter. Every field of peft.LoraConfig is accepted beside `type`."""

    model_config = ConfigDict(extra="allow", frozen=True, use_attribute_docstrings=True)

    type: Literal["lora", "dora", "rslora"] = "lora"
    """lora, dora (weight-decomposed) or rslora (rank-stabilised scaling)."""
    r: Annotated[int, Field(gt=0)] = 16
    """The rank of the update."""
    target_modules: str | list[str] | None = "all-linear"
    """Names of the modules that get an adapter, a regular expression, or `all-linear`."""


class ColumnsSection(Section):
    """The names that a data set uses for what Longline calls otherwise. Left out: the format's usual names."""

    messages: str | None = None
    """The column that holds the list of messages (usual: messages, conversations, conversation)."""
    role: str | None = None
    """The key of a message's role (usual: role, from)."""
    content: str | None = None
    """The key of a message's text (usual: content, value)."""
    system: str | None = None
    """A column that holds a system prompt (usual: system; for preference, unpaired and prompts also system_prompt)."""
    tools: str | None = None
    """A column that holds tool definitions, as a list or as JSON text."""
    train: str | None = None
    """The key of a message's or segment's own trained-or-masked flag (usual: train)."""
    instruction: str | None = None
    """alpaca: what is asked; elsewhere another name for `question`."""
    input: str | None = None
    """alpaca, and beside a `question`: further input."""
    output: str | None = None
    """alpaca: the answer."""
    prompt: str | None = None
    """prompt_completion, preference, unpaired, prompts: what is given, as messages, or as text that is taken as it is."""
    question: str | None = None
    """preference, unpaired, prompts: what the user asks; it goes through the chat template (usual: question, instruction,
    query, input)."""
    completion: str | None = None
    """prompt_completion: the text that is learnt; unpaired: the answer (usual: completion, response)."""
    chosen: str | None = None
    """preference: the better answer (usual: chosen, chosen_response)."""
    rejected: str | None = None
    """preference: the worse answer (usual: rejected, rejected_response)."""
    label: str | None = None
    """unpaired: whether the answer is a good one, true or false (usual: label)."""
    text: str | None = None
    """completion: the raw text; segments: the key of a piece's text."""
    segments: str | None = None
    """segments: the column that holds the list of pieces."""
    input_ids: str | None = None
    """tokenized: token ids."""
    labels: str | None = None
    """tokenized: labels, -100 where masked."""
    attention_mask: str | None = None
    """tokenized: 1 for each token, 0 where the row is padded (usual: attention_mask)."""


class SourceSection(Section):
    """One data set of a mix."""

    path: Annotated[str, Field(min_length=1)]
    """A file, a folder, a glob, an fsspec url, or a hub id. JSONL, JSON, YAML, CSV, Parquet, Arrow, text; also compressed."""
    format: Annotated[str, Field(min_length=1)] = "auto"
    """How a row is to be read, by the name of an installed format; `auto` guesses from the columns and says what it guessed."""
    name: str | None = None
    """The configuration of a hub data set that has several."""
    split: str = "train"
    """The split of a hub data set."""
    revision: str | None = None
    """Branch, tag or commit of a hub data set."""
    encoding: str | None = None
    """The encoding of text files, such as cp1252, latin-1 or gb18030. Left out: UTF-8, or UTF-16 or UTF-32 where that is seen."""
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] | None = None
    """csv, tsv: what stands between fields. Left out: tabs in .tsv; else commas, semicolons, tabs or bars, as is seen."""
    field: Annotated[str, Field(min_length=1)] | None = None
    """json, yaml: the key under which an object holds the list of rows (usual: data, rows, examples ...)."""
    document: Literal["line", "file"] = "line"
    """txt: whether each line is a row, or the whole file."""
    columns: ColumnsSection = ColumnsSection()
    """Names that differ from the format's usual ones."""
    roles: dict[str, Literal["system", "user", "assistant", "tool"]] = {}
    """Role names of the data set beyond the known ones (human, gpt, bot, model ...), to ours."""
    train_on: TrainOn | None = None
    """Overrides `data.train_on` for this source."""
    too_long: TooLong | None = None
    """Overrides `data.too_long` for this source."""
    special_tokens: SpecialTokens | None = None
    """Overrides `data.special_tokens` for this source."""
    limit: Annotated[int, Field(gt=0)] | None = None
    """Take only the first `limit` rows."""
    weight: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    """How often each row is seen in one epoch: 2 twice, 0.5 a fixed random half."""


class KeepSection(Section):
    """A further column of the data."""

    name: Annotated[str, Field(min_length=1)]
    """The column of the rows, or what their format calls it."""
    align: Literal["row", "token"] | None = None
    """row: one value for each row; token: one for each of its tokens. Left out: as the first rows are, else row."""
    dtype: ColumnType | None = None
    """The type of a value, `text`, `json` (anything, as JSON text) or that of a number. Left out: as the first rows are."""
    width: Annotated[int, Field(gt=0)] | None = None
    """How many numbers a value is, where it is a vector."""
    fill: Annotated[float, Field(allow_inf_nan=False)] = 0
    """What stands where a batch is padded."""


class DataSection(Section):
    """The rows, and how they become tokens."""

    train: Annotated[list[SourceSection], _list_of("data", "train"), Field(min_length=1)]
    """What is trained on; one source or a list that is mixed."""
    eval: Annotated[list[SourceSection], _list_of("data", "eval"), OTHER_EVAL] = []
    """What is evaluated on."""
    eval_fraction: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Without `eval`: the share of the training rows that is set aside for evaluation."""
    train_on: TrainOn | None = None
    """Which tokens are learnt: assistant turns (default for chat), the last one, the completion, or all."""
    tool_arguments: ToolArguments = "strict"
    """Arguments of a tool call that are no mapping and no JSON text of one: `strict` refuses the row, `empty` takes an empty text
    for no arguments, `as_is` leaves any text to the chat template."""
    allow_dropped: list[Dropped] = []
    """What of a row may be missing in its text: the reasoning of an answer that is learnt, which is refused otherwise; tools, a
    system prompt or other keys of messages, which are warned about."""
    special_tokens: SpecialTokens = "keep"
    """Special tokens of the tokenizer in the text of a row, such as `<|im_end|>` in a question: `keep` leaves them what they are,
    which is told; `escape` makes them text like any other; `refuse` refuses the row."""
    end_of_turn: str | list[str] = []
    """The tokens that end an answer, where that can't be seen from the chat template; the first is put behind a last answer
    that ends without one."""
    max_length: Annotated[int, Field(ge=2)] = 1024
    """The longest sample, in tokens; with packing, the length of a pack."""
    too_long: TooLong | None = None
    """What to do with a row of more than `max_length` tokens: split it into several, cut its end off, leave it out, or stop. Left
    out: raw text (`completion`) is split, all else cut. Rows that are compared are never split, a prompt for grpo or rloo not cut
    either: it is left out or stops."""
    overlap: Annotated[int, Field(ge=0)] = 0
    """How many tokens of the piece before a piece of a row that is split begins with, as context: they are learnt once."""
    join: bool = False
    """Put the documents of all sources end to end and cut them into rows of exactly `max_length` tokens, which are not isolated
    from each other, as pre-training does; only the last row may be shorter."""
    packing: bool = False
    """Put several samples into one row of `max_length`, isolated from each other."""
    on_bad_row: Literal["stop", "skip"] = "stop"
    """A row that cannot be read: stop with its file and line, or leave it out, counted and listed."""
    keep: Annotated[list[KeepSection], _list_of("data", "keep")] = []
    """Further columns that reach the batch: names, or names with what they hold."""
    shuffle: bool = True
    """Mix the rows of all sources in an order fixed by `trainer.seed`, before packing."""
    add_eos: bool = True
    """End texts that are learnt without a chat template with the end-of-sequence token."""
    cache_dir: Annotated[Path | None, UNTOLD] = None
    """Where prepared data is kept. Default: the user's cache folder, or LONGLINE_CACHE."""
    cache: Annotated[bool, UNTOLD] = True
    """Reuse prepared data when content, options and tokenizer are the same."""


class RewardSection(Section):
    """A function that scores what the policy answered; for grpo and rloo."""

    function: Annotated[str, Field(min_length=1)]
    """The name of an installed reward function, such as `reasoning_gym`, or `package.module:function`."""
    folder: Path | None = None
    """Where the module is looked for before what is installed; left out: beside the config."""
    name: Annotated[str, Field(min_length=1)] | None = None
    """What logs and tables call it; left out: the function's own name."""
    weight: Annotated[float, Field(allow_inf_nan=False)] = 1.0
    """Its share of the sum that advantages are computed from."""
    options: dict[str, Any] = {}
    """Keyword arguments that are passed to the function at every call."""


class EarlyStoppingSection(Section):
    """Stop when the best metric (`trainer.metric_for_best_model`, by default loss) no longer improves."""

    patience: Annotated[int, Field(ge=1)] = 3
    """Evaluations without improvement before training stops."""
    threshold: Annotated[float, Field(ge=0)] = 0.0
    """How much counts as an improvement."""


class PluginEntry(BaseModel):
    """One item of `plugins:`: a name, its raw options, and what Longline itself reads of them."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    name: str
    options: Annotated[dict[str, Any], Field(repr=False)] = {}  # may hold what the plugin will call a secret
    on_error: Literal["continue", "raise"] = "continue"
    """What happens when an `on_` hook of the plugin raises: training goes on, or it stops."""
    slow_after: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 30.0
    """Seconds after which a hook that has not returned is told of, with where it is."""

    @property
    def own(self) -> dict[str, Any]:
        """What the entry says beside the plugin's options: the words of Longline that are not at their defaults."""
        return self.model_dump(mode="json", include=set(PLUGIN_WORDS), exclude_defaults=True)


PLUGIN_WORDS = tuple(name for name in PluginEntry.model_fields if name not in {"name", "options"})
"""The words of an entry that belong to Longline; no plugin may have an option of such a name."""


def _plugin_entry(name: str, options: dict[str, Any]) -> dict[str, Any]:
    own = {key: value for key, value in options.items() if key in PLUGIN_WORDS}
    return {"name": name, "options": {key: value for key, value in options.items() if key not in own}, **own}


def _plugin_entries(value: Any) -> Any:
    """Reads the mapping of names to options that the loader makes of every form of `plugins`."""
    return [_plugin_entry(name, options or {}) for name, options in value.items()] if isinstance(value, dict) else value


class Config(Section):
    """One run, from data to a tuned model."""

    method: Annotated[str, OnResume("refused", "each method has rows and a loss of its own")] = "sft"
    """How the model is trained: a method of Longline, or one that a plugin brings."""
    model: ModelSection
    """The model that is tuned."""
    adapter: Annotated[AdapterSection | None, OnResume("refused", "what is learnt was learnt with the other")] = None
    """A peft adapter; left out: all weights are trained."""
    data: Annotated[DataSection, ROWS]
    """The rows, and how they become tokens."""
    trainer: Annotated[dict[str, Any], TAKES] = {}
    """Fields of the method's own arguments class: transformers.TrainingArguments for sft, trl's config for the others."""
    rewards: Annotated[list[RewardSection], _list_of("rewards"), TAKES] = []
    """For methods that draw answers: the functions that score what the policy answered; one or a list."""
    plugins: Annotated[list[PluginEntry], BeforeValidator(_plugin_entries), TAKES] = []
    """A list of names, or a mapping of names to options; the order is the order of calls."""
    early_stopping: Annotated[EarlyStoppingSection | None, TAKES] = None
    """Stop when evaluation no longer improves; left out: train to the end."""
    nonfinite_loss: Annotated[Literal["stop", "continue"], TAKES] = "stop"
    """A loss that is NaN or infinite: stop with the step and its rows, or go on."""
    output_dir: Annotated[Path, UNTOLD]
    """The run folder."""
