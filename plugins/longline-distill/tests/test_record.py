"""What `longline distill record` writes is what the teacher says, and is learnt from as from the teacher itself."""

from __future__ import annotations

import pyarrow.parquet as pq
import pytest

from longline.cli import run_cli

K = 12
ALL = {"max_steps": 1, "logging_steps": 1, "learning_rate": 0.0, "per_device_train_batch_size": 32}


def values(outcome, name="loss"):
    return [event[name] for event in outcome.log if name in event]


@pytest.fixture
def recorded(tmp_path, teacher_dir, run_config):
    def record(*more, k=K, path=tmp_path / "recorded.parquet"):
        words = ["distill", "record", str(teacher_dir), str(run_config()), "-o", str(path), "--top-k", str(k), *more]
        return run_cli(words), path

    return record


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
    assert values(ours, "kl") == pytest.approx(values(theirs, "kl"), rel=2e-3)  # float16
    assert values(ours, "agreement") == values(theirs, "agreement")


def test_a_recording_that_was_cut_off_goes_on(recorded, tmp_path, monkeypatch):
    import longline_distill.record as module

    monkeypatch.setattr(module, "PART", 10)  # the size of a part is no promise
    status, whole = recorded(path=tmp_path / "whole.parquet")
    assert status == 0
    made = module.record
    steps = []

    def interrupted(*arguments):
        for done in made(*arguments):
            steps.append(done)
            if done == 20:
                raise KeyboardInterrupt
            yield done

    monkeypatch.setattr(module, "record", interrupted)
    assert recorded()[0] == 130
    assert not (tmp_path / "recorded.parquet").exists()
    monkeypatch.setattr(module, "record", made)
    assert recorded(k=3)[0] == 2  # parts of another recording
    status, path = recorded()
    assert status == 0
    assert steps == [0, 10, 20]
    assert pq.read_table(path).equals(pq.read_table(whole))
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
