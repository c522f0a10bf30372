"""Singular values of stored matrices, against numpy's of the same numbers in float64."""

from __future__ import annotations

import json

import numpy as np
import pytest
from planting import planted, write

from longline.errors import ModelError
from longline_spectrum import files, values, weights
from longline_spectrum.values import singular_values

SHAPES = [(70, 70), (300, 40), (40, 300), (97, 61)]


def stored(tmp_path, matrix, kind):
    """The tensor of a safetensors file with the numbers of a matrix as `kind` has them, and these numbers."""
    raw = matrix.astype(np.float32)
    if kind == "BF16":
        half = ((raw.view(np.uint32) + 0x8000) >> 16).astype("<u2")
        data, numbers = half.tobytes(), (half.astype(np.uint32) << 16).view(np.float32)
    else:
        numbers = raw.astype({"F16": np.float16, "F32": np.float32, "F64": np.float64}[kind])
        data = numbers.tobytes()
    header = json.dumps({"x.weight": {"dtype": kind, "shape": raw.shape, "data_offsets": [0, len(data)]}}).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)
    return files.opened(str(path)).tensors[0], numbers.astype(np.float64)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["BF16", "F16", "F32", "F64"])
def test_of_safetensors(kind, shape, tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "_PIECE", 1000)  # many pieces, whose ends are within rows
    tensor, numbers = stored(tmp_path, planted(shape, 4, 3), kind)
    expected = np.linalg.svd(numbers, compute_uv=False)
    (matrix,) = tensor.matrices()
    np.testing.assert_allclose(singular_values(matrix), expected, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(values._in_place(matrix), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["F32", "Q8_0", "Q4_K"])
@pytest.mark.parametrize("shape", [(64, 256), (512, 256)])
def test_of_gguf(kind, shape, tmp_path, monkeypatch):
    import gguf

    monkeypatch.setattr(weights, "_PIECE", 5000)
    path, type_ = tmp_path / "x.gguf", gguf.GGMLQuantizationType[kind]
    block, size = gguf.GGML_QUANT_SIZES[type_]
    matrix = planted(shape, 4, 3).astype(np.float32)
    if kind == "Q4_K":  # which the library cannot write: any bytes are one, as long as its scales are numbers
        raw = np.random.default_rng(0).integers(0, 255, (shape[0], shape[1] // block * size), np.uint8)
        raw.reshape(shape[0], -1, size)[:, :, :4] = np.frombuffer(np.float16([0.01, 0.02]).tobytes(), np.uint8)
    else:
        raw = gguf.quants.quantize(matrix, type_)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_tensor("blk.0.ffn_up.weight", raw, raw_dtype=type_)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    (tensor,) = files.opened(str(path)).tensors
    assert (tensor.name, tensor.shape, tensor.stored.name) == ("model.layers.0.mlp.up_proj.weight", shape, kind)
    numbers = np.asarray(gguf.quants.dequantize(raw, type_), np.float64).reshape(shape)
    (found,) = tensor.matrices()
    np.testing.assert_allclose(singular_values(found), np.linalg.svd(numbers, compute_uv=False), rtol=1e-9, atol=1e-9)


def test_large_square_matrices_are_worked_on_in_place(tmp_path, monkeypatch):
    monkeypatch.setattr(values, "_SMALL", 0)
    taken = []
    for name in ("_in_place", "_by_product"):
        own = getattr(values, name)
        monkeypatch.setattr(values, name, lambda *given, own=own, name=name: taken.append(name) or own(*given))
    for shape in ((70, 70), (300, 40)):
        tensor, _ = stored(tmp_path, planted(shape, 4, 3), "F32")
        singular_values(next(tensor.matrices()))
    assert taken == ["_in_place", "_by_product"]


@pytest.mark.parametrize("number", [np.nan, np.inf])
@pytest.mark.parametrize("way", ["_by_product", "_in_place"])
def test_a_weight_that_is_no_number_is_refused(number, way, tmp_path):
    matrix = planted((40, 40), 2, 3)
    matrix[3, 5] = number
    tensor, _ = stored(tmp_path, matrix, "F32")
    with pytest.raises(ModelError, match=r"x\.weight in .* holds a weight that is NaN or infinite"):
        getattr(values, way)(next(tensor.matrices()), *([40] if way == "_by_product" else []))


def test_a_file_that_was_cut_is_refused(tmp_path):
    folder = write(tmp_path / "cut", {"model.layers.0.mlp.up_proj.weight": np.ones((64, 64), np.float32)})
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ModelError, match="is cut off"):
        files.opened(str(folder))
