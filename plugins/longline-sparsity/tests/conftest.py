"""Pruned models to train."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file


def prune(weight, kind):
    """A weight [out, in] with half of its numbers zero."""
    generator = torch.Generator().manual_seed(weight.numel())
    if kind == "2:4":
        groups = weight.unflatten(-1, (-1, 4))
        dropped = groups.abs().argsort(-1)[..., :2]
        return groups.scatter(-1, dropped, 0).flatten(-2)
    if kind == "block16":
        kept = torch.rand(weight.shape[0] // 16, weight.shape[1] // 16, generator=generator) < 0.5
        kept[0, 0], kept[-1, -1] = False, True
        return weight * kept.repeat_interleave(16, 0).repeat_interleave(16, 1)
    return weight * (torch.rand(weight.shape, generator=generator) < 0.5)


@pytest.fixture
def pruned(tiny_model_dir, tmp_path):
    """A function that writes a copy of the tiny model in which the matrices of layers are pruned."""

    def write(kind="2:4", where="_proj"):
        folder = tmp_path / f"pruned-{kind.replace(':', '-')}-{where}"
        folder.mkdir()
        for path in tiny_model_dir.iterdir():
            if path.suffix != ".safetensors":
                (folder / path.name).write_bytes(path.read_bytes())
        weights = load_file(tiny_model_dir / "model.safetensors")
        made = {name: prune(weight, kind).contiguous() if where in name else weight for name, weight in weights.items()}
        save_file(made, folder / "model.safetensors", metadata={"format": "pt"})
        return folder

    return write
