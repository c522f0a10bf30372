"""The picture of the docs, of a real scan: `python plugins/longline-spectrum/bench/plot.py MODEL IMAGE [MATRIX]`.

Left and middle: the singular values of noise, and of one matrix of the model, beside what Marchenko and Pastur say of noise. Right:
signal to noise of every kind in every layer, with the half that is trained.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from click import echo

mpl.use("Agg")
import matplotlib.pyplot as plt

from longline_spectrum import files, kept
from longline_spectrum.choice import pick
from longline_spectrum.edge import measure
from longline_spectrum.values import singular_values


def histogram(axes: Any, values: Any, shape: tuple[int, int], title: str) -> None:
    """Singular values, the curve of noise with the sigma that was found, and both thresholds."""
    edge, published = (measure(values, *shape, threshold) for threshold in ("edge", "published"))
    long, short = max(shape), min(shape)
    low, high = (edge.sigma * (np.sqrt(long) + sign * np.sqrt(short)) for sign in (-1, 1))
    x = np.linspace(low, high, 400)
    density = np.sqrt(np.clip((high**2 - x**2) * (x**2 - low**2), 0, None)) / (
        np.pi * edge.sigma**2 * short * np.maximum(x, 1e-9)
    )
    most = max(float(np.quantile(values, 0.999)) * 1.15, 1.5 * edge.threshold)
    axes.hist(values, bins=70, range=(0, most), density=True, color="#9db8d2")
    axes.plot(x, density, color="#1f4e79", lw=2, label="noise of this size")
    axes.axvline(edge.threshold, color="#c0392b", lw=2, label=f"edge: {edge.signals:.0f} of {short} above")
    axes.axvline(published.threshold, color="#7f8c8d", lw=2, ls="--", label=f"published: {published.signals:.0f} above")
    axes.set(title=title, xlabel="singular value", xlim=(0, most), yticks=[])
    axes.legend(frameon=False, fontsize=8)


def heat(axes: Any, found: Any) -> Any:
    """Signal to noise by layer and kind, each kind in its own scale, with a mark where it is trained."""
    kinds = pick(found, 0.5)
    layers = 1 + max(row.unit.layer for row in found.rows)
    grid = np.full((len(kinds), layers), np.nan)
    for number, kind in enumerate(kinds):
        for row in kind.rows:
            grid[number, row.unit.layer] = row.by["edge"].snr / max(kind.rows[0].by["edge"].snr, 1e-12)
        axes.scatter([row.unit.layer for row in kind.trained], [number] * kind.count, s=9, color="#c0392b")
    image = axes.imshow(grid, aspect="auto", cmap="Blues", vmin=0, vmax=1)
    axes.set(title="signal to noise, of the highest of its kind; red: the half that is trained", xlabel="layer")
    axes.set_yticks(range(len(kinds)), [kind.name for kind in kinds])
    return image


def main() -> None:
    """Scan, and draw."""
    model, image, *rest = sys.argv[1:]
    checkpoint = files.opened(model)
    found = kept.make(checkpoint)
    wanted = rest[0] if rest else "model.layers.16.mlp.gate_proj.weight"
    matrix = next(next(tensor.matrices()) for tensor in checkpoint.tensors if tensor.name == wanted)
    values = singular_values(matrix)
    noise = np.linalg.svd(np.random.default_rng(0).normal(size=matrix.shape) * 0.1, compute_uv=False)
    figure = plt.figure(figsize=(10, 7.2), layout="constrained")
    grid = figure.add_gridspec(2, 2, height_ratios=(1, 1.1))
    size = f"{matrix.shape[0]} x {matrix.shape[1]}"
    histogram(figure.add_subplot(grid[0, 0]), noise, matrix.shape, f"pure noise, {size}")
    histogram(figure.add_subplot(grid[0, 1]), values, matrix.shape, f"{wanted.removesuffix('.weight')}, {size}")
    below = figure.add_subplot(grid[1, :])
    figure.colorbar(heat(below, found), ax=below)
    figure.savefig(Path(image), dpi=110)
    echo(f"wrote {image}")


if __name__ == "__main__":
    main()
