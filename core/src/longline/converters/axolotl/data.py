"""The data: sources, length, packing, what is learnt, rows for evaluation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from longline.converters.axolotl.rules import Rule, method_of, none, nothing, same, together
from longline.converters.axolotl.sources import sources

if TYPE_CHECKING:
    from longline.config.document import Keys
    from longline.converters.draft import Draft

_ON_ITS_OWN = "rows are prepared in batches; nothing to set"
RULES: dict[str, Rule] = {
    "datasets": together("data.train", "see the tables below"),
    "test_datasets": together("data.eval", "as `datasets`"),
    "pretraining_dataset": together("data.train", "format completion, read before training instead of streamed"),
    "val_set_size": together("data.eval_fraction", "a number of rows has no equal"),
    "sequence_len": together("data.max_length"),
    "excess_length_strategy": together("data.too_long", "`raise` is called error; raw text is split, as it is there"),
    "sample_packing": together("data.packing", "samples are kept apart with any attention implementation"),
    "train_on_inputs": together("data.train_on: all"),
    "shuffle_merged_datasets": together("data.shuffle"),
    "dataset_prepared_path": same("data.cache_dir"),
    "eval_sample_packing": together("data.packing", "evaluation rows are packed as training rows are"),
    "pad_to_sequence_len": nothing("batches are as wide as their longest row, packs are full"),
    "eval_sequence_len": none("data.max_length, which is for both"),
    "min_sample_len": none("a filter of your own on the rows"),
    "skip_prepare_dataset": none("data are always prepared, and cached"),
    "dataset_exact_deduplication": none("rows without repetitions"),
    "shuffle_before_merging_datasets": none("data.shuffle, which mixes all rows"),
    "sample_packing_eff_est": nothing("packs are counted, not guessed"),
    "total_num_tokens": nothing("tokens are counted"),
    "total_supervised_tokens": nothing("tokens are counted"),
    "streaming": none("rows are prepared and mapped from disk, also when they are more than memory holds"),
    "push_dataset_to_hub": none("`hf upload` of the prepared rows"),
    "dataset_shard_num": none("`weight` of a source: 0.1 is a fixed random tenth"),
    "dataset_shard_idx": none("`weight` of a source: 0.1 is a fixed random tenth"),
    **dict.fromkeys(
        ("dataset_processes", "dataset_num_proc", "dataset_keep_in_memory", "num_dataset_shards_to_save"), nothing(_ON_ITS_OWN)
    ),
    **dict.fromkeys(
        ("sample_packing_group_size", "sample_packing_bin_size", "sample_packing_mp_start_method", "multipack_real_batches"),
        nothing("packing has no sizes to set"),
    ),
    "pretrain_multipack_attn": together("data.join", "where it is false"),
    "pretraining_sample_concatenation": together("data.join"),
    "pretrain_multipack_buffer_size": nothing("packing has no sizes to set"),
    "streaming_multipack_buffer_size": nothing("packing has no sizes to set"),
    **dict.fromkeys(
        ("sample_packing_sequentially", "curriculum_sampling"), none("`data.shuffle: false`, which keeps the order of the rows")
    ),
    "batch_flattening": none("data.packing"),
    "pad_to_multiple_of": nothing("widths are chosen for the device"),
    **dict.fromkeys(
        ("use_pose", "pose_split_on_token_ids", "pose_max_context_len", "pose_num_chunks"), none("a larger data.max_length")
    ),
    "max_packed_sequence_len": none("data.max_length with data.packing"),
}


def translate(draft: Draft) -> None:
    """All of the data."""
    first = "datasets" if draft.get("datasets") else "pretraining_dataset"
    if not draft.get(first):
        draft.problem((), "there are no `datasets`", hint="what to train on is required")
    for key, part in (("datasets", "train"), ("pretraining_dataset", "train"), ("test_datasets", "eval")):
        sources(draft, key, part)
    _length(draft)
    _packing(draft)
    _learnt(draft)
    _evaluation(draft)


def _length(draft: Draft) -> None:
    """Length, and what is too long. axolotl splits raw text before it looks, and so does Longline where nothing is said."""
    if draft.get("sequence_len") is not None:
        draft.put("data.max_length", draft.get("sequence_len"), "sequence_len")
    else:
        draft.add("data.max_length", 512, "axolotl's default")
    data, given = draft.config.get("data", {}), draft.get("excess_length_strategy")
    places: list[Keys] = [("data", part, number) for part in ("train", "eval") for number in range(len(data.get(part, [])))]
    raw = [place for place in places if data[place[1]][place[2]].get("format") == "completion"]
    words = {"drop": "drop", "truncate": "truncate", "raise": "error"}
    if given is not None and str(given).lower() not in words:
        draft.problem("excess_length_strategy", f"must be one of {', '.join(words)}")
    elif raw == places:
        if given is not None:
            draft.accept("excess_length_strategy", "raw text is split, as it is there, so that nothing is too long")
        return
    elif given is not None:
        draft.put("data.too_long", words[str(given).lower()], "excess_length_strategy")
    else:
        draft.add("data.too_long", "drop", "axolotl leaves longer rows out")
    for place in raw:
        draft.add((*place, "too_long"), "split", "axolotl splits raw text")


def _packing(draft: Draft) -> None:
    asked, evaluated, apart = (draft.get(key) for key in ("sample_packing", "eval_sample_packing", "pretrain_multipack_attn"))
    joined = draft.get("pretraining_sample_concatenation")
    if joined is True or (asked and apart is False):
        of = [
            key
            for key in ("sample_packing", "pretrain_multipack_attn", "pretraining_sample_concatenation")
            if draft.get(key) is not None
        ]
        draft.put("data.join", True, *of, note="documents are put end to end, and see each other, as there")
    elif asked is not None and method_of(draft).packs:
        draft.put("data.packing", bool(asked), "sample_packing")
    elif asked:
        draft.refuse("sample_packing", "rows that are compared are not packed")
    elif asked is not None:
        draft.accept("sample_packing", "off, as it is here")
    for key in ("pretrain_multipack_attn", "pretraining_sample_concatenation"):
        if draft.get(key) is not None and not draft.spoken(key):
            draft.accept(key, "documents that are packed do not see each other")
    packs = bool(asked) and method_of(draft).packs
    if evaluated is not None and bool(evaluated) == packs:
        draft.accept("eval_sample_packing", "evaluation rows are packed as training rows are")
    elif evaluated is not None:
        draft.refuse(
            "eval_sample_packing", "evaluation rows are packed as training rows are; the loss is that of the samples either way"
        )


def _learnt(draft: Draft) -> None:
    if draft.get("train_on_inputs") is True and method_of(draft).chooses_trained:
        draft.put("data.train_on", "all", "train_on_inputs")
    elif draft.get("train_on_inputs") is not None:
        draft.accept("train_on_inputs", "answers are learnt and prompts are not, as it is by default")
    if draft.get("shuffle_merged_datasets") is not None:
        draft.put("data.shuffle", draft.get("shuffle_merged_datasets"), "shuffle_merged_datasets")


def _evaluation(draft: Draft) -> None:
    """A share of the rows, or none; a number of rows is not known to be which share."""
    size = draft.number("val_set_size")
    if size is None:
        return
    if draft.get("test_datasets"):
        draft.accept("val_set_size", "not used: `test_datasets` holds")
    elif size <= 0:
        draft.accept("val_set_size", "no rows are set aside, as it is here")
    elif size < 1:
        draft.put("data.eval_fraction", size, "val_set_size")
    else:
        draft.refuse("val_set_size", "`data.eval_fraction`, a share of the rows; 0.05 is written, so that there is one")
        draft.add("data.eval_fraction", 0.05, f"a guess: {size:g} rows are which share of yours?")


def evaluates(draft: Draft) -> bool:
    """Whether there are rows to evaluate on."""
    data = draft.config.get("data", {})
    return bool(data.get("eval")) or data.get("eval_fraction") is not None
