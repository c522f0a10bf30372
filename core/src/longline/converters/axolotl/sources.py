"""The sources: paths, formats and columns of `datasets`, `test_datasets` and `pretraining_dataset`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

from longline.config.paths import looks_local
from longline.converters.axolotl.model import CHATML
from longline.converters.axolotl.rules import method_of, training_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from longline.config.document import Keys
    from longline.converters.draft import Draft


class Form(NamedTuple):
    """What a `type:` of axolotl is here: format, the columns that it reads, and what differs."""

    format: str
    columns: Mapping[str, str] = {}
    note: str = ""


_PROMPT = "axolotl writes Alpaca's own prompt, Longline the model's chat template; a model without one gets Alpaca's prompt"
_CHATML = "axolotl writes ChatML itself, so the template is written out"
_LLAMA3 = "axolotl writes Llama 3's template itself, Longline the model's own"
_AS_TEXT = "prompt and answers as they are, without a template"
SAMPLES: dict[str, Form] = {
    "chat_template": Form("chat"),
    "chat_template.default": Form("chat"),
    "chat_template.argilla": Form("chat"),
    "sharegpt": Form("chat", {"messages": "conversations", "role": "from", "content": "value"}),
    "alpaca": Form("alpaca", {}, _PROMPT),
    "alpaca_instruct": Form("alpaca", {}, _PROMPT),
    "alpaca_chat": Form("alpaca", {}, _PROMPT),
    "alpaca_w_system": Form("alpaca", {}, _PROMPT),
    "alpaca_w_system.load_open_orca": Form(
        "alpaca", {"instruction": "question", "output": "response", "system": "system_prompt"}, _PROMPT
    ),
    "alpaca_chat.load_qa": Form("alpaca", {"instruction": "question", "output": "answer"}, _PROMPT),
    "gpteacher": Form("alpaca", {"output": "response"}, _PROMPT),
    "oasst": Form("alpaca", {"instruction": "INSTRUCTION", "output": "RESPONSE"}, _PROMPT),
    "summarizetldr": Form("alpaca", {"instruction": "article", "output": "summary"}, _PROMPT),
    "completion": Form("completion"),
    "pretrain": Form("completion"),
    "input_output": Form("segments", {"segments": "segments", "train": "label", "text": "text"}),
}
PREFERENCE: dict[str, Form] = {
    "chat_template": Form("preference", {"question": "messages"}),
    "chat_template.default": Form("preference", {"question": "messages"}),
    "chat_template.argilla_chat": Form("preference"),
    "chat_template.argilla": Form("preference"),
    "orpo.chat_template": Form("preference"),
    "bradley_terry.chat_template": Form("preference", {"question": "input"}),
    "bradley_terry.llama3": Form("preference", {"question": "input"}),
    "default": Form("preference"),
    "intel": Form("preference", {"question": "question"}),
    "icr": Form("preference", {"question": "input"}),
    "argilla": Form("preference", {"question": "instruction", "chosen": "chosen_response", "rejected": "rejected_response"}),
    "argilla_chat": Form("preference"),
    "prompt_pairs": Form("preference", {"question": "prompt"}),
    "ultra": Form("preference", {"question": "prompt"}),
    "passthrough": Form("preference", {"prompt": "prompt"}, _AS_TEXT),
}
UNPAIRED: dict[str, Form] = {
    "argilla": Form("unpaired", {"question": "instruction"}),
    "argilla_chat": Form("unpaired", {"messages": "completion"}),
    "intel": Form("unpaired", {"question": "question"}),
    "prompt_pairs": Form("unpaired", {"question": "prompt"}),
    "ultra": Form("unpaired", {"question": "prompt"}),
}
FORMS: dict[str, dict[str, Form]] = {"samples": SAMPLES, "preference": PREFERENCE, "unpaired": UNPAIRED, "prompts": {}}
"""The types by what the rows of a method are. `chatml.X` and `llama3.X` are X, with a template of their own."""

FIELDS = {
    "field_messages": "messages",
    "field_tools": "tools",
    "field_system": "system",
    "field_chosen": "chosen",
    "field_rejected": "rejected",
    "field": "text",
    "text_column": "text",
    "message_field_role": "role",
    "message_field_content": "content",
    "message_field_training": "train",
}
"""Keys of a source to columns of ours; of preferences, `field_messages` is the prompt."""
OF_TYPE = {
    "field_instruction": "instruction",
    "field_input": "input",
    "field_output": "output",
    "field_system": "system",
    "field_prompt": "prompt",
    "field_chosen": "chosen",
    "field_rejected": "rejected",
    "field_completion": "completion",
    "field_label": "label",
}
"""Keys of a `type:` that is a mapping to columns of ours."""
NOT_OF_SOURCE = {
    "preprocess_shards": "",
    "ds_type": "",
    "train_on_eot": "the end of each learnt turn is learnt, as axolotl's `turn`",
    "train_on_eos": "the end of each learnt turn is learnt, as axolotl's `turn`",
    "message_field_training_detail": "format segments, whose pieces say each whether they are learnt",
    "split_thinking": "rows with the reasoning in a key of its own, such as `reasoning_content`, which reaches the template",
    "drop_system_message": "rows without their system messages",
    "trust_remote_code": "datasets runs no code of a data set any more: a Parquet copy of it",
    "conversation": "the model's chat template",
    "input_format": "format segments or prompt_completion, with the texts as they shall be",
    "input_transform": "rows that were transformed before",
    "field_human": "format chat, with rows of messages",
    "field_model": "format chat, with rows of messages",
    "skip": "`limit`, or a file without those rows",
    "step_separator": "method reward, which scores whole answers",
    "max_completion_length": "data.max_length",
    "train_on_last_step_only": "`train_on: last_assistant`",
    "logprobs_field": "`data.keep`, which takes a column to the batch, for a loss of your own",
    "temperature": "`data.keep`, which takes a column to the batch, for a loss of your own",
    **dict.fromkeys(("length", "sequence_length", "min_input_id", "max_input_id", "seed"), "a file of made-up rows"),
}
"""Keys of a source without an equal, and what comes nearest; empty: nothing has to be set."""
WRITTEN = """\
{{% for message in messages %}}{{% if message['role'] == 'user' %}}{before}{{{{ message['content'] }}}}{after}{{% else %}}\
{{{{ message['content'] + (eos_token if message['role'] == 'assistant' else '') }}}}{{% endif %}}{{% endfor %}}"""
"""A chat template that writes a user's message between two texts."""
_BUILDERS = frozenset({"json", "csv", "parquet", "arrow", "text"})
_MASKS = frozenset({"assistant", "gpt", "model"})
_ROLES = frozenset({"system", "user", "assistant", "tool"})


def sources(draft: Draft, key: str, part: str) -> None:
    """The sources under a key of the file, as those of a part of our data."""
    listed = draft.get(key)
    if listed is None:
        return
    items = [(keys, item) for keys, item in draft.items(key)] if isinstance(listed, list) else [((key,), listed)]
    if not items or not all(isinstance(item, dict) for _, item in items):
        draft.problem(key, "must be a list of data sets, each keys with values", hint="- path: ...")
        return
    draft.house(key, ("data", part))
    for keys, item in items:
        first = len(draft.config.get("data", {}).get(part, []))
        draft.house(keys, ("data", part, first))
        for number, (path, of) in enumerate(_files(draft, keys, item), start=first):
            draft.put(("data", part, number, "path"), path, *of)
            Source(draft, keys, ("data", part, number), item).translate()


def _files(draft: Draft, keys: Keys, item: Mapping[str, Any]) -> list[tuple[str, list[Keys]]]:
    """The paths that a source names, each with the keys that say it."""
    path, named = item.get("path"), item.get("data_files")
    if not path and not named:
        draft.problem(keys, "has no `path`")
        return []
    if not named:
        return [(str(path), [(*keys, "path")])]
    of: list[Keys] = [(*keys, "data_files"), *([(*keys, "path")] if path else [])]
    files = [str(file) for file in (named if isinstance(named, list) else [named])]
    if path and str(path) not in _BUILDERS and not looks_local(str(path)) and not any("://" in file for file in files):
        revision = f"@{item['revision']}" if item.get("revision") else ""
        return [(f"hf://datasets/{path}{revision}/{file}", of) for file in files]
    return [(file, of) for file in files]


class Source:
    """One source: `keys` is where it stands in the file, `place` where it goes."""

    def __init__(self, draft: Draft, keys: Keys, place: Keys, item: Mapping[str, Any]) -> None:
        self.draft, self.keys, self.place, self.item = draft, keys, place, item
        self.rows = training_of(draft).rows
        self.local = looks_local(str(draft.get(*keys, "path") or "")) or str(item.get("path")) in _BUILDERS

    def translate(self) -> None:
        """Format and columns first, then what else the source says."""
        self._form()
        for name, value in self.item.items():
            keys = (*self.keys, name)
            if value is None or name in ("path", "data_files", "type"):
                continue
            if name in FIELDS:
                self._column(self._ours(name), value, keys)
            elif name in NOT_OF_SOURCE:
                self._without(name, value, keys)
            elif name in OTHERS:
                OTHERS[name](self, value, keys)
        self._thinking()

    def _put(self, name: str, value: Any, keys: Keys, note: str = "") -> None:
        self.draft.put((*self.place, name), value, keys, note=note)

    def _column(self, name: str, value: Any, keys: Keys) -> None:
        self.draft.put((*self.place, "columns", name), value, keys)

    def _ours(self, name: str) -> str:
        return "question" if name == "field_messages" and self.rows == "preference" else FIELDS[name]

    # --- type -----------------------------------------------------------------------------------------------------------------

    def _form(self) -> None:
        kind, keys = self.item.get("type"), (*self.keys, "type")
        if isinstance(kind, dict):
            self._own_form(kind, keys)
            return
        if self.keys[0] == "pretraining_dataset":
            self._set_form(Form("completion"), keys)
        elif kind is None:
            if self.rows == "samples":
                self.draft.add((*self.place, "format"), "tokenized", "without a `type` rows are tokens already")
        else:
            self._named_form(str(kind), keys)

    def _named_form(self, kind: str, keys: Keys) -> None:
        base = kind.partition(":")[0]
        style, _, rest = base.partition(".")
        forms = FORMS[self.rows]
        of_style = forms.get(rest or "default") if style in ("chatml", "llama3") and self.rows != "samples" else None
        form = (
            forms.get(base)
            or of_style
            or (forms.get(style) if self.rows == "samples" and rest in ("load", "default") else None)
        )
        if form is None:
            nearest = "a format that fits the columns is guessed; `longline preview` shows what comes of it"
            if not method_of(self.draft).draws_answers:
                self.draft.refuse(keys, nearest)
                return
            self.draft.refuse(keys, "rows that were transformed before: a `prompt`, and columns for the reward functions")
            self.draft.add((*self.place, "format"), "prompts", "what the method reads")
            return
        self._set_form(form, keys, _LLAMA3 if of_style and style == "llama3" else "")
        if of_style and style == "chatml" and not self.draft.config.get("model", {}).get("tokenizer", {}).get("chat_template"):
            self.draft.put("model.tokenizer.chat_template", CHATML, keys, note=_CHATML)

    def _set_form(self, form: Form, keys: Keys, note: str = "") -> None:
        if self.draft.get(*keys) is None:
            self.draft.add((*self.place, "format"), form.format, "what it is there")
        else:
            self._put("format", form.format, keys, form.note or note)
        given = {self._ours(name) for name in FIELDS if self.item.get(name) is not None}
        for name, column in form.columns.items():
            if name not in given and self.draft.get(*keys) is not None:
                self.draft.put((*self.place, "columns", name), column, keys)

    def _own_form(self, kind: Mapping[str, Any], keys: Keys) -> None:
        """A type that names fields and, maybe, writes the prompt itself."""
        self.draft.house(keys, (*self.place, "columns"))
        form = {"samples": "alpaca", "preference": "preference", "unpaired": "unpaired", "prompts": "prompts"}[self.rows]
        self.draft.add((*self.place, "format"), form, "what a `type` of fields comes nearest to")
        if self.rows == "samples":
            self._written_out(kind, keys)
        for name, value in kind.items():
            below = (*keys, name)
            if value is None or self.draft.spoken(below):
                continue
            if name in OF_TYPE:
                self._column(OF_TYPE[name], value, below)
            elif str(value) in ("{prompt}", "{chosen}", "{rejected}", "{completion}"):
                self.draft.accept(below, "the text as it is")
            else:
                self.draft.refuse(
                    below, "a chat template in `model.tokenizer.chat_template` that writes it so, or format segments"
                )

    def _written_out(self, kind: Mapping[str, Any], keys: Keys) -> None:
        """The prompt that such a type writes, as a chat template, where it is all of the data and holds the instruction alone."""
        given = [name for name in ("format", "no_input_format") if kind.get(name) is not None]
        plain = next((str(kind[name]) for name in reversed(given) if "{input}" not in str(kind[name])), None)
        pattern = "{instruction} " if not given else plain
        others = len(self.draft.get(*self.keys[:1]) or ()) > 1 or self.draft.get("chat_template") or kind.get("system_prompt")
        if pattern is None or pattern.count("{instruction}") != 1 or others:
            return
        before, after = (f"{{{{ {part!r} }}}}" if part else "" for part in pattern.split("{instruction}"))
        note = "written out as a chat template, which the tuned model keeps; an input stands below its instruction"
        place = "model.tokenizer.chat_template"
        if given:
            self.draft.put(place, WRITTEN.format(before=before, after=after), *((*keys, name) for name in given), note=note)
        else:
            self.draft.add(place, WRITTEN.format(before=before, after=after), "axolotl writes the instruction and a space")

    # --- the other keys, each by a method of its name -------------------------------------------------------------------------

    def _name(self, value: Any, keys: Keys) -> None:
        if isinstance(value, list):
            self.draft.refuse(keys, "a source for each name")
        else:
            self._put("name", value, keys)

    def _revision(self, value: Any, keys: Keys) -> None:
        if self.item.get("data_files") and not self.local:
            self.draft.accept(keys, "part of the path")
        else:
            self._put("revision", str(value), keys)

    def _split(self, value: Any, keys: Keys) -> None:
        if not (self.local or self.item.get("data_files")):
            self._put("split", value, keys)
            return
        first = re.fullmatch(r"(\w+)(?:\[:(\d+)(%?)\])?", str(value))
        if first is None:
            self.draft.refuse(keys, "`limit`, or a file with those rows alone")
        elif first[2] is None:
            self.draft.accept(keys, "a file has no splits: all of it is read")
        elif first[3]:
            self._put("weight", int(first[2]) / 100, keys, "a fixed random share instead of the first rows")
        else:
            self._put("limit", int(first[2]), keys)

    def _shards(self, value: Any, keys: Keys) -> None:
        if not isinstance(value, int) or value < 1:
            self.draft.problem(keys, "must be a whole number above 0")
            return
        self._put("weight", round(1 / value, 6), keys, f"a fixed random {value}th of the rows; not the same ones")

    def _shards_idx(self, value: Any, keys: Keys) -> None:
        self.draft.refuse(keys, "`weight`, whose share is drawn at random")

    def _message_property_mappings(self, value: Any, keys: Keys) -> None:
        for name, column in self.draft.mapping(*keys).items():
            below = (*keys, name)
            if name in ("role", "content"):
                self._column(name, column, below)
            elif name == column:
                self.draft.accept(below, "reaches the template under its own name")
            else:
                self.draft.refuse(below, "rows in which it has the name that the template wants")

    def _roles(self, value: Any, keys: Keys) -> None:
        self.draft.house(keys, (*self.place, "roles"))
        for target in self.draft.mapping(*keys):
            for below, source in self.draft.items(*keys, target):
                if target in _ROLES:
                    self.draft.put((*self.place, "roles", str(source)), target, below)
                else:
                    self.draft.refuse(below, f"one of {', '.join(sorted(_ROLES))}")

    def _roles_to_train(self, value: Any, keys: Keys) -> None:
        roles = {str(role) for role in (value if isinstance(value, list) else [value])}
        if not method_of(self.draft).chooses_trained:
            self.draft.accept(keys, "answers are learnt, prompts are not")
        elif roles and roles <= _MASKS:
            self._put("train_on", "assistant", keys)
        elif roles:
            self._put("train_on", "all", keys, "all of the text is learnt, not these roles alone")
        else:
            self.draft.refuse(keys, "`train` of each message that shall be learnt")

    def _chat_template(self, value: Any, keys: Keys) -> None:
        text, used = self.item.get("chat_template_jinja"), self.draft.get("chat_template")
        template = text if text is not None else CHATML if value == "chatml" else None
        there = self.draft.config.get("model", {}).get("tokenizer", {}).get("chat_template")
        if template is None or template == there or value == used:
            self.draft.accept(keys, "the model's chat template is used")
        elif there is None and used is None:
            self.draft.put("model.tokenizer.chat_template", template, keys)
        else:
            self.draft.refuse(keys, "one template for all sources: `model.tokenizer.chat_template`")

    def _without(self, name: str, value: Any, keys: Keys) -> None:
        nearest = NOT_OF_SOURCE[name]
        if not nearest:
            self.draft.accept(keys, "a file's ending says what it is" if name == "ds_type" else "nothing to set")
        elif value is False:
            self.draft.accept(keys, "off, as it is here")
        elif name.startswith("train_on_eo") and value == "turn":
            self.draft.accept(keys, nearest)
        else:
            self.draft.refuse(keys, nearest)

    def _thinking(self) -> None:
        """Further keys of a message reach the template under their own names."""
        names = [name for name in ("field_thinking", "template_thinking_key") if self.item.get(name) is not None]
        given, wanted = (self.item.get(name) or "reasoning_content" for name in ("field_thinking", "template_thinking_key"))
        for name in names:
            if given == wanted:
                self.draft.accept((*self.keys, name), "reaches the template under its own name")
            else:
                self.draft.refuse((*self.keys, name), f"rows in which {given!r} is called {wanted!r}")


OTHERS = {
    "name": Source._name,
    "revision": Source._revision,
    "split": Source._split,
    "shards": Source._shards,
    "shards_idx": Source._shards_idx,
    "message_property_mappings": Source._message_property_mappings,
    "roles": Source._roles,
    "roles_to_train": Source._roles_to_train,
    "chat_template": Source._chat_template,
    "chat_template_jinja": Source._chat_template,
}
"""The keys of a source that are more than a column."""
