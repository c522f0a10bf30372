"""What `longline distill record` writes is what the teacher says, and is learnt from as from the teacher itself."""

from __future__ import annotations

import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForCausalLM

from longline.cli import run_cli
from longline.config.loader import load_config
from longline.run import prepare
from longline_distill.record import Made, record

K = 12
ALL = {"max_steps": 1, "logging_steps": 1, "learning_rate": 0.0, "per_device_train_batch_size": 32}


def values(outcome, name="loss"):
    return [event[name] for event in outcome.log if name in event]


@pytest.fixture
def recorded(tmp_path, teacher_dir, run_config):
    def write(*more, k=K, path=tmp_path / "recorded.parquet"):
        words = ["distill", "record", str(teacher_dir), str(run_config()), "-o", str(path), "--top-k", str(k), *more]
        return run_cli(words), path

    return write


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("packing", [False, True])
def test_a_recording_is_the_teacher(recorded, run_longline, teacher_dir, temperature, packing):
    status, path = recorded("--temperature", str(temperature), "--batch-tokens", "300")
    assert status == 0
    options = {"top_k": K, "temperature": temperature}
    data = {"train": [{"path": str(path), "format": "tokenized"}], "packing": packing}
    ours = run_longline(
        method="distill",
        plugins=[{"distill": {"column": "teacher", "layout": "recorded", **options}}],
        data=data,
        trainer=ALL,
    )
    local = {"distill": {"teacher": str(teacher_dir), **options}}
    theirs = run_longline(method="distill", plugins=[local], trainer=ALL, overwrite=True)
    assert values(ours, "ce") == pytest.approx(values(theirs, "ce"), rel=1e-5)
    assert values(ours, "kl") == pytest.approx(values(theirs, "kl"), rel=2e-4)  # float16
    assert values(ours, "agreement") == values(theirs, "agreement")


def test_a_recording_that_was_cut_off_goes_on(recorded, run_config, teacher_dir, tmp_path, capsys):
    status, whole = recorded(path=tmp_path / "whole.parquet")
    assert status == 0
    _, tokenizer, data = prepare(load_config(run_config(), ("data.packing=false",)), "preprocess")
    model = AutoModelForCausalLM.from_pretrained(teacher_dir, dtype=torch.float32).eval()
    made = Made(str(teacher_dir), data.report.fingerprint + "train", K, 1.0, "float32")
    begun = record(data.train, model, len(tokenizer), made, tmp_path / "recorded.parquet", 4096, part=10)
    assert [next(begun) for _ in range(3)] == [0, 10, 20]
    begun.close()  # as Ctrl-C ends it
    assert not (tmp_path / "recorded.parquet").exists()
    assert recorded(k=3)[0] == 2  # parts of another recording
    capsys.readouterr()
    status, path = recorded()
    assert status == 0
    assert [line for line in capsys.readouterr().err.splitlines() if " of 32 rows" in line] == [
        "20 of 32 rows",
        "32 of 32 rows",
    ]
    found, right = pq.read_table(path), pq.read_table(whole)
    for name in ("input_ids", "labels", "teacher_ids"):
        assert found[name].equals(right[name])
    logs, expected = (table["teacher_logprobs"].combine_chunks().flatten().flatten().to_numpy() for table in (found, right))
    assert logs == pytest.approx(expected, abs=0.01)  # rows in other company are padded otherwise, and rounded
    assert not (tmp_path / "recorded.parquet.parts").exists()


def test_nothing_is_overwritten(recorded, capsys):
    _, path = recorded()
    before = path.read_bytes()
    assert recorded()[0] == 2
    assert "nothing is overwritten" in capsys.readouterr().err
    assert path.read_bytes() == before


def test_a_config_that_wants_another_recording_is_refused_by_check(recorded, run_config, capsys):
    _, path = recorded("--temperature", "2")
    options = {"column": "teacher", "layout": "recorded", "top_k": 5}
    config = run_config(
        method="distill", plugins=[{"distill": options}], data={"train": [{"path": str(path), "format": "tokenized"}]}
    )
    assert run_cli(["check", str(config)]) == 3
    said = capsys.readouterr().err
    assert "was recorded with top_k 12, and plugins.distill.top_k is 5" in said
    assert "was recorded with temperature 2.0, and plugins.distill.temperature is 1" in said
