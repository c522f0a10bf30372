"""Scans: what is planted is found in order, files of every form are the same model, and nothing is measured twice."""

from __future__ import annotations

import csv
import json
import os
import time

import numpy as np
import pytest
from planting import KINDS, STRENGTHS, noise, planted, tensors, write
from safetensors.numpy import load_file, save_file

from longline.cli import run_cli
from longline.errors import ModelError
from longline_spectrum import files, kept
from longline_spectrum import scan as scans
from longline_spectrum.choice import pick
from longline_spectrum.edge import median


def made(path, **given):
    return kept.make(files.opened(str(path), **given))


def test_planted_signal_is_found_in_order(model):
    found = made(model)
    kinds = pick(found, 0.4)
    assert [kind.name for kind in kinds] == list(KINDS)[::-1]
    by_strength = sorted(range(5), key=lambda layer: -STRENGTHS[layer])
    for kind in kinds:
        assert [row.unit.layer for row in kind.rows] == by_strength
        assert {row.unit.layer for row in kind.trained} == {1, 3}
        assert [row.by["edge"].signals for row in kind.rows] == [3, 3, 3, 3, 0]
    assert found.total == sum(tensor.size for tensor in tensors().values())


def test_the_numbers_are_those_of_numpy(model):
    found, weights = made(model), load_file(model / "model.safetensors")
    for row in found.rows:
        matrix = weights[f"{row.unit.name}.weight"].astype(np.float64)
        values = np.linalg.svd(matrix, compute_uv=False)
        rows, columns = matrix.shape
        sigma = np.median(values) / np.sqrt(max(rows, columns) * median(min(rows, columns) / max(rows, columns)))
        edge = sigma * (np.sqrt(rows) + np.sqrt(columns))
        iqr = np.quantile(values, 0.75) - np.quantile(values, 0.25)
        published = iqr / 1.349 * (1 + np.sqrt(min(rows, columns) / max(rows, columns)))
        for threshold, limit, scale in (("edge", edge, 1), ("published", published, values[0])):
            one = row.by[threshold]
            assert one.threshold == pytest.approx(limit, rel=1e-5)
            assert one.signal == pytest.approx(values[values > limit].sum(), rel=1e-5)
            assert one.snr == pytest.approx(values[values > limit].sum() / values[values <= limit].sum() / scale, rel=1e-5)
        assert row.largest == pytest.approx(values[0], rel=1e-5)


def test_the_content_decides_and_not_files_shards_or_dates(model, tmp_path, cache):
    first = made(model)
    written = kept.path_of(first.weights).stat().st_mtime_ns
    shards = write(tmp_path / "shards", tensors(), shards=3)
    assert made(shards) == first
    os.utime(model / "model.safetensors", (1, 1))
    assert made(model) == first
    assert kept.path_of(first.weights).stat().st_mtime_ns == written
    changed = tensors()
    changed["model.norm.weight"][3] = 2
    other = made(write(tmp_path / "changed", changed))
    assert other.weights != first.weights
    assert len(list((cache / "spectrum").glob("*.json"))) == 2


def test_a_file_that_was_changed_in_place_is_another(model):
    first = made(model).weights
    weights = load_file(model / "model.safetensors")
    weights["model.norm.weight"][0] = 5
    time.sleep(0.01)
    save_file(weights, model / "model.safetensors")
    assert made(model).weights != first


def test_an_interrupted_scan_goes_on_where_it_was(model):
    checkpoint, told = files.opened(str(model)), []

    def stop(row, known):
        told.append(row.unit)
        if len(told) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        kept.make(checkpoint, stop)
    assert kept.glance(checkpoint) is None
    begun = kept.path_of(kept.fingerprint(checkpoint)).with_suffix(".begun")
    begun.write_text(begun.read_text()[:-30])  # the last row was cut off
    before = []
    again = kept.make(checkpoint, lambda row, known: before.append(known))
    assert before == [3] * len(again.rows)
    assert again == kept.make(checkpoint, again=True)
    assert not begun.exists()


def test_json_and_table_hold_the_scan(model, tmp_path):
    found = made(model)
    assert scans.of_json(scans.to_json(found)) == found
    rows = list(csv.DictReader(kept.path_of(found.weights).with_suffix(".csv").open()))
    assert [row["name"] for row in rows] == [row.unit.name for row in found.rows]
    assert [float(row["edge_snr"]) for row in rows] == [row.by["edge"].snr for row in found.rows]


def test_experts_of_a_layer_are_one_unit_however_they_are_stored(tmp_path):
    both = [planted((32, 24), 2, 2 + expert, expert) for expert in range(8)]
    gate, down = both[:4], [matrix.T for matrix in both[4:]]
    names = {f"model.layers.1.mlp.experts.{n}.gate_proj.weight": gate[n] for n in range(4)}
    names |= {f"model.layers.1.mlp.experts.{n}.up_proj.weight": gate[3 - n] for n in range(4)}
    names |= {f"model.layers.1.mlp.experts.{n}.down_proj.weight": down[n] for n in range(4)}
    names["model.layers.1.mlp.gate.weight"] = noise((4, 32))  # a router is too small to be measured
    apart = made(write(tmp_path / "apart", {name: m.astype(np.float32) for name, m in names.items()}))
    assert [(row.unit.kind, row.unit.experts) for row in apart.rows] == [
        ("mlp.experts.down_proj", 4),
        ("mlp.experts.gate_up_proj", 4),
    ]
    assert apart.rows[1].unit.tensors == tuple(f"model.layers.1.mlp.experts.*.{part}_proj.weight" for part in ("gate", "up"))
    assert apart.beside["other"] == 4 * 32
    stacked = {"model.layers.1.mlp.experts.down_proj": np.stack(down).astype(np.float32)}
    stacked["model.layers.1.mlp.experts.down_proj_bias"] = np.ones((4, 32), np.float32)
    fused = made(write(tmp_path / "fused", stacked))
    assert [row.unit.kind for row in fused.rows] == ["mlp.experts.down_proj"]
    assert fused.rows[0].by["edge"].snr == pytest.approx(apart.rows[0].by["edge"].snr)
    assert fused.rows[0].unit.weights == apart.rows[0].unit.weights


# --- the command ------------------------------------------------------------------------------------------------------------------


def test_the_command_shows_ranks_then_what_is_trained_and_reads_what_is_kept(model, capsys, tmp_path):
    assert run_cli(["spectrum", "scan", str(model)]) == 0
    first = capsys.readouterr()
    assert "scanning" in first.err
    assert "3, 1, 4, 2, 0" in first.out
    assert (
        run_cli(["spectrum", "scan", str(model), "--top", "0.5", "--kinds", "q_proj", "--output", str(tmp_path / "s.csv")]) == 0
    )
    second = capsys.readouterr()
    assert "scanning" not in second.err
    assert "1, 3" in second.out
    assert "mlp.down_proj" not in second.out
    assert "12.3k of 88.7k weights (14%)" in second.out
    assert (tmp_path / "s.csv").read_text().startswith("name,kind,layer")
    assert run_cli(["spectrum", "scan", str(model), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["rows"]) == 10


def refused(capsys, *given):
    assert run_cli(["spectrum", "scan", *map(str, given)]) == 2
    return capsys.readouterr().err


def test_kinds_that_fit_none_and_fractions_out_of_range_are_refused(model, capsys):
    assert "no kind of matrix is called 'qproj'" in refused(capsys, model, "--kinds", "qproj")
    assert "x<=1" in refused(capsys, model, "--top", "50")


def test_what_is_no_model_is_refused_with_what_to_do(tmp_path, capsys):
    assert "no such file or folder" in refused(capsys, tmp_path / "nowhere")
    assert "neither model.safetensors nor" in refused(capsys, tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    assert "it holds an adapter alone" in refused(capsys, tmp_path)
    (tmp_path / "x.txt").write_text("")
    assert "neither .safetensors nor .gguf" in refused(capsys, tmp_path / "x.txt")
    for name in ("x.gguf", "x.safetensors"):
        for content in (
            b"",
            b"GGUF",
            b"GGUF\3\0\0\0" + b"\xff" * 16,
            b"\xff" * 20,
            b"\x02\0\0\0\0\0\0\0[]",
            b'\x05\0\0\0\0\0\0\0{"a":',
        ):
            (tmp_path / name).write_bytes(content)
            assert f"x{name[1:]}" in refused(capsys, tmp_path / name), content


def test_nothing_is_downloaded(capsys):
    told = refused(capsys, "HuggingFaceTB/SmolLM2-135M")
    assert "are not on this machine" in told
    assert "hf download HuggingFaceTB/SmolLM2-135M" in told


def test_shards_that_are_missing_are_named(tmp_path, capsys):
    folder = write(tmp_path / "shards", tensors(), shards=3)
    (folder / "model-00002-of-00003.safetensors").unlink()
    assert "model-00002-of-00003.safetensors is not in" in refused(capsys, folder)


@pytest.mark.parametrize("how", ["config", "integers"])
def test_quantised_weights_are_refused(how, tmp_path, capsys):
    config = {"quantization_config": {"quant_method": "gptq"}} if how == "config" else {}
    weights = tensors() if how == "config" else {"model.layers.0.mlp.up_proj.qweight": np.ones((32, 32), np.int32)}
    told = refused(capsys, write(tmp_path / "q", weights, config=config))
    assert f"are quantised ({'gptq' if how == 'config' else 'I32'})" in told


def test_a_cache_that_cannot_be_written_is_told(model, capsys, cache):
    cache.write_text("no folder")
    assert "LONGLINE_CACHE names another folder" in refused(capsys, model)


def test_a_kept_scan_that_is_damaged_is_made_again(model):
    first = made(model)
    kept.path_of(first.weights).write_text("{")
    assert made(model) == first


def test_a_file_that_is_no_scan_is_refused(tmp_path):
    for content in ("", "[]", "{}", '{"longline_spectrum": 99}', "\0"):
        (tmp_path / "x.json").write_text(content)
        with pytest.raises(ModelError, match="is no scan"):
            scans.read(tmp_path / "x.json")
