"""Batches of pairs and of labelled answers, and that they hold what trl's own trainers make of the same rows."""

import pytest
import torch
from datasets import Dataset
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference
from trl.trainer.kto_trainer import DataCollatorForUnpairedPreference

from longline.config.sections import DataSection
from longline.data import prepare
from longline.data.collate import Collator
from longline.data.kinds.labelled import LABELLED
from longline.data.kinds.pair import PAIR
from longline.data.kinds.prompt import PROMPT
from longline.data.kinds.sample import SAMPLE

LAYOUTS = {
    "padded": {"kind": SAMPLE},
    "rows": {"kind": SAMPLE, "packing": "rows"},
    "flat": {"kind": SAMPLE, "packing": "flat"},
    "pairs": {"kind": PAIR},
    "labelled": {"kind": LABELLED},
    "prompts": {"kind": PROMPT},
}

PAIRS = [
    {"input_ids": [1, 2, 3, 1, 4], "labels": [-100, 2, 3, -100, 4], "seq_lengths": [3, 2], "row_ids": [7]},
    {"input_ids": [5, 6, 5, 7, 8], "labels": [-100, 6, -100, 7, -100], "seq_lengths": [2, 3], "row_ids": [3]},
]
ANSWERS = [
    {"input_ids": [1, 2, 3], "labels": [-100, -100, 3], "row_ids": [7], "label": True},
    {"input_ids": [4, 5, 6, 7], "labels": [-100, 5, -100, 7], "row_ids": [3], "label": False},
    {"input_ids": [8, 9, 10, 11, 12], "labels": [-100, -100, -100, 11, 12], "row_ids": [4], "label": True},
]


def plain(batch):
    return {name: part.tolist() for name, part in batch.items()}


def test_collated_pairs():
    batch = Collator(9, PAIR)(PAIRS)
    assert plain(batch) == {
        "input_ids": [[1, 2, 3], [5, 6, 9], [1, 4, 9], [5, 7, 8]],
        "attention_mask": [[1, 1, 1], [1, 1, 0], [1, 1, 0], [1, 1, 1]],
        "completion_mask": [[0, 1, 1], [0, 1, 0], [0, 1, 0], [0, 1, 0]],
        "row_ids": [[7], [3]],
        "token_count": [10],
    }
    assert {part.dtype for part in batch.values()} == {torch.int64}
    rounded = plain(Collator(9, PAIR, pad_to_multiple_of=4)(PAIRS))
    assert rounded["input_ids"] == [[1, 2, 3, 9], [5, 6, 9, 9], [1, 4, 9, 9], [5, 7, 8, 9]]
    assert rounded["attention_mask"] == [[1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0]]
    assert rounded["completion_mask"] == [[0, 1, 1, 0], [0, 1, 0, 0], [0, 1, 0, 0], [0, 1, 0, 0]]


def test_collated_labelled():
    batch = Collator(0, LABELLED)(ANSWERS)
    assert plain(batch) == {
        "input_ids": [[1, 2, 3, 0, 0], [4, 5, 6, 7, 0], [8, 9, 10, 11, 12]],
        "attention_mask": [[1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 1]],
        "completion_mask": [[0, 0, 1, 0, 0], [0, 1, 0, 1, 0], [0, 0, 0, 1, 1]],
        "label": [True, False, True],
        "KL_input_ids": [[1, 2, 11, 12, 0, 0], [4, 3, 0, 0, 0, 0], [8, 9, 10, 5, 6, 7]],
        "KL_attention_mask": [[1, 1, 1, 1, 0, 0], [1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1]],
        "KL_completion_mask": [[0, 0, 1, 1, 0, 0], [0, 1, 0, 0, 0, 0], [0, 0, 0, 1, 0, 1]],
        "row_ids": [[7], [3], [4]],
        "token_count": [12],
    }
    assert batch["label"].dtype == torch.bool
    assert {part.dtype for name, part in batch.items() if name != "label"} == {torch.int64}
    cut = plain(Collator(0, LABELLED, max_length=5)(ANSWERS))
    assert cut["KL_input_ids"] == [[1, 2, 11, 12, 0], [4, 3, 0, 0, 0], [8, 9, 10, 5, 6]]
    assert cut["KL_completion_mask"][2] == [0, 0, 0, 1, 0]
    rounded = Collator(0, LABELLED, pad_to_multiple_of=4)(ANSWERS)
    assert {tuple(part.shape) for name, part in rounded.items() if name.endswith(("ids", "mask")) and name != "row_ids"} == {
        (3, 8)
    }
    assert rounded["KL_attention_mask"].sum() == 12


def test_the_only_row_of_a_batch_is_its_own_mismatch():
    batch = Collator(0, LABELLED)(ANSWERS[:1])
    for name in ("input_ids", "attention_mask", "completion_mask"):
        assert torch.equal(batch[name], batch[f"KL_{name}"])


# --- against trl ----------------------------------------------------------------------------------

TEXTS = [
    {"prompt": "Two plus two is", "chosen": " four.", "rejected": " six, I am fine."},
    {"prompt": "Two plus two is ", "chosen": "four", "rejected": "six"},
    {"prompt": "What is two?\n", "chosen": "Two is two", "rejected": "\nThree"},
    {"prompt": "Zähle:", "chosen": " 1 2 3", "rejected": "4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20"},
]
IMPLICIT = [
    {"chosen": "Two plus two is four", "rejected": "Two plus two is six"},
    {"chosen": "Is it? Yes. It is", "rejected": "Is it? No"},
]
ASKED = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "What is two plus two?"}]
CHATS = [
    {
        "prompt": ASKED,
        "chosen": [{"role": "assistant", "content": "four"}],
        "rejected": [{"role": "assistant", "content": "six."}],
    },
    {
        "prompt": ASKED[1:],
        "chosen": [{"role": "assistant", "content": "I am fine"}],
        "rejected": [{"role": "assistant", "content": "?"}],
    },
]
WHOLE = [{side: row["prompt"] + row[side] for side in ("chosen", "rejected")} for row in CHATS]


def trl_trainer(kind, tokenizer, **values):
    """A trainer that can only prepare data: its constructor would want a model."""
    trainer = kind.__new__(kind)
    for name, value in {"_tokenizer": tokenizer, **values}.items():
        setattr(trainer, name, value)
    return trainer


def ours(rows, jsonl, tokenizer, layout="pairs", max_length=1024):
    section = DataSection(train=jsonl(rows), shuffle=False, cache=False, max_length=max_length)
    return Collator(tokenizer.pad_token_id, **LAYOUTS[layout], max_length=max_length)(
        list(prepare(section, tokenizer, **LAYOUTS[layout], seed=0).train)
    )


def theirs(rows, tokenizer, tmp_path, max_length=1024):
    args = DPOConfig(output_dir=str(tmp_path), max_length=max_length, use_cpu=True)
    trainer = trl_trainer(DPOTrainer, tokenizer)
    made = trainer._prepare_dataset(Dataset.from_list(rows), tokenizer, args, "train")
    return DataCollatorForPreference(tokenizer.pad_token_id, max_length=max_length)(list(made))


@pytest.mark.parametrize("max_length", [1024, 9])
@pytest.mark.parametrize("rows", [TEXTS, IMPLICIT])
def test_plain_text_as_trl_has_it(jsonl, template_tokenizer, smollm2, tmp_path, rows, max_length):
    for tokenizer in (template_tokenizer(None), smollm2):
        batch = ours(rows, jsonl, tokenizer, max_length=max_length)
        for name, part in theirs(rows, tokenizer, tmp_path, max_length).items():
            assert torch.equal(batch[name], part), name


@pytest.mark.parametrize("template", ["llama3", "command_r", "deepseek_v3"])
@pytest.mark.parametrize("rows", [CHATS, WHOLE])
def test_a_template_that_writes_nothing_behind_the_turn_as_trl_has_it(jsonl, template_tokenizer, tmp_path, template, rows):
    tokenizer = template_tokenizer(template)
    batch = ours(rows, jsonl, tokenizer)
    for name, part in theirs(rows, tokenizer, tmp_path).items():
        assert torch.equal(batch[name], part), name


def test_where_we_differ_trl_learns_the_newline_behind_the_turn(jsonl, smollm2, tmp_path):
    batch, other = ours(CHATS, jsonl, smollm2), theirs(CHATS, smollm2, tmp_path)
    assert torch.equal(batch["input_ids"], other["input_ids"])
    assert torch.equal(batch["attention_mask"], other["attention_mask"])
    more = other["completion_mask"] - batch["completion_mask"]
    assert more.sum(dim=1).tolist() == [1, 1, 1, 1]
    assert set(smollm2.convert_ids_to_tokens(batch["input_ids"][more.bool()])) == {"Ċ"}
    last = batch["attention_mask"].sum(dim=1) - 1
    assert more.argmax(dim=1).tolist() == last.tolist()


def test_the_mismatch_of_kto_as_trl_has_it(jsonl, template_tokenizer, tmp_path):
    for template, pairs in ((None, TEXTS), ("llama3", CHATS)):
        tokenizer = template_tokenizer(template)
        rows = [{"prompt": row["prompt"], "completion": row[side], "label": side == "chosen"}
                for row in pairs for side in ("chosen", "rejected")]  # fmt: skip
        args = KTOConfig(output_dir=str(tmp_path), max_length=1024, per_device_train_batch_size=len(rows), use_cpu=True)
        trainer = trl_trainer(KTOTrainer, tokenizer, calculate_KL=True, desirable_weight=1.0, undesirable_weight=1.0)
        made = trainer._prepare_dataset(Dataset.from_list(rows), tokenizer, args, "train")
        expected = DataCollatorForUnpairedPreference(tokenizer.pad_token_id, max_length=1024)(list(made))
        batch = ours(rows, jsonl, tokenizer, "labelled")
        assert {name: part.tolist() for name, part in expected.items()} == {name: batch[name].tolist() for name in expected}
        assert not torch.equal(batch["KL_input_ids"], batch["input_ids"])
