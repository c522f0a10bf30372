"""Models on disk with signal that is known."""

from __future__ import annotations

import json

import numpy as np
from safetensors.numpy import save_file

KINDS = {"self_attn.q_proj": (96, 64), "mlp.down_proj": (64, 160)}
STRENGTHS = (0, 3, 1, 4, 2)
"""How much signal each layer has, from the least to the most: what a scan must find in order."""


def noise(shape, seed=0, sigma=0.02):
    return np.random.default_rng(seed).normal(size=shape) * sigma


def planted(shape, directions, strength, seed=0, sigma=0.02):
    """Noise, and so many directions of a strength in units of the largest singular value that noise has."""
    rng = np.random.default_rng(seed)
    left, right = (np.linalg.qr(rng.normal(size=(size, max(directions, 1))))[0] for size in shape)
    edge = sigma * (np.sqrt(shape[0]) + np.sqrt(shape[1]))
    return noise(shape, seed + 1, sigma) + strength * edge * (left[:, :directions] @ right[:, :directions].T)


def tensors(strengths=STRENGTHS, kinds=KINDS):
    """The weights of a model, without a head, of which each layer has three directions of its own strength."""
    found = {"model.embed_tokens.weight": noise((100, 64), 7), "model.norm.weight": np.ones(64)}
    for layer, strength in enumerate(strengths):
        for number, (kind, shape) in enumerate(kinds.items()):
            directions, times = (3, 1 + strength) if strength else (0, 0)
            found[f"model.layers.{layer}.{kind}.weight"] = planted(shape, directions, times, 10 * layer + number)
        found[f"model.layers.{layer}.input_layernorm.weight"] = np.ones(64)
    return {name: value.astype(np.float32) for name, value in found.items()}


def write(folder, weights, shards=1, config=None):
    """A checkpoint as transformers has it, whole or in shards."""
    folder.mkdir(parents=True)
    weights = {name: np.ascontiguousarray(value) for name, value in weights.items()}  # safetensors takes memory as it lies
    (folder / "config.json").write_text(json.dumps(config or {"model_type": "llama"}))
    if shards == 1:
        save_file(weights, folder / "model.safetensors")
        return folder
    names = sorted(weights, reverse=True)
    where = {name: f"model-{number % shards + 1:05}-of-{shards:05}.safetensors" for number, name in enumerate(names)}
    for shard in set(where.values()):
        save_file({name: weights[name] for name in names if where[name] == shard}, folder / shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    return folder
