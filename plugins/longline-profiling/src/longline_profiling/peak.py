"""The peak of a device: the denominator of MFU. Known for NVIDIA's GPUs from its data sheets, measured on a CPU."""

from __future__ import annotations

import re
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from longline_profiling.flops import UnknownError

PEAKS: tuple[tuple[str, float, float, float], ...] = (
    (r"GB200\b", 2500, 1250, 80),
    (r"B200\b", 2250, 1125, 75),
    (r"H20\b", 148, 74, 44),
    (r"(?:G?H200|H800)\b(?! PCIe)", 989.5, 494.7, 66.9),
    (r"H100 PCIe", 756, 378, 51.2),
    (r"H100 NVL", 835.5, 417.5, 60),
    (r"H100\b", 989.5, 494.7, 66.9),
    (r"(?:A100|A800)\b", 312, 156, 19.5),
    (r"A30\b", 165, 82, 10.3),
    (r"RTX A6000\b", 154.8, 77.4, 38.7),
    (r"A40\b", 149.7, 74.8, 37.4),
    (r"A10\b", 125, 62.5, 31.2),
    (r"L40S\b", 362, 183, 91.6),
    (r"L40\b", 181, 90.5, 90.5),
    (r"L4\b", 121, 60, 30.3),
    (r"RTX 6000 Ada", 364.2, 182.1, 91.1),
    (r"RTX 5090\b(?! (?:D|Laptop))", 209.5, 104.8, 104.8),
    (r"RTX 4090\b(?! (?:D|Laptop))", 165.2, 82.6, 82.6),
    (r"RTX 3090\b(?! Ti)", 71, 35.6, 35.6),
    (r"V100-SXM", 125, 15.7, 15.7),
    (r"V100-PCIE", 112, 14, 14),
    (r"\bT4\b", 65, 8.1, 8.1),
)
"""A pattern of the device's name; then 10^12 operations a second in bfloat16 or float16, in TF32 and in float32: dense, that is
without the factor 2 of sparsity, accumulated in float32. From NVIDIA's data sheets and the tables of its architecture papers."""
NO_BFLOAT16 = r"V100|\bT4\b"
SECONDS = 0.03
"""How long a CPU is measured at most, beside one warm-up of each size."""


@dataclass(frozen=True, slots=True)
class Peak:
    """Operations a second of one device, and where the number is from."""

    flops: float
    source: str


def find(model: Any, args: Any, given_tflops: float | None) -> Peak:
    """Return the peak of the device that `args`, the trainer's arguments, compute on.

    Raises UnknownError: the device is not in the table.
    """
    if given_tflops is not None:
        return Peak(given_tflops * 1e12, "peak_tflops")
    import torch

    dtype = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else _most_used(model)
    if args.device.type == "cpu":
        return Peak(measure(dtype), f"measured, {str(dtype).removeprefix('torch.')} matrix product on this CPU")
    if args.device.type != "cuda":
        raise UnknownError(f"the peak of {args.device.type} devices isn't known; set peak_tflops")
    name = torch.cuda.get_device_name(args.device)
    kind = "float32" if dtype == torch.float32 else str(dtype).removeprefix("torch.")
    if kind == "float32" and torch.backends.cuda.matmul.allow_tf32:
        kind = "tf32"
    return Peak(look_up(name, kind), f"data sheet of {name}, {kind}")


def look_up(name: str, kind: str) -> float:
    """Return the operations a second of a GPU; `kind` is bfloat16, float16, tf32 or float32. Raises UnknownError."""
    column = {"bfloat16": 0, "float16": 0, "tf32": 1, "float32": 2}.get(kind)
    found = next((numbers for pattern, *numbers in PEAKS if re.search(pattern, name)), None)
    if found is None or column is None or (kind == "bfloat16" and re.search(NO_BFLOAT16, name)):
        raise UnknownError(f"the peak of {name!r} in {kind} isn't known; set peak_tflops")
    return found[column] * 1e12


def measure(dtype: Any) -> float:
    """Return the operations a second of the best of some matrix products on the CPU, in about a tenth of a second.

    The size grows until one product takes some milliseconds. Random numbers are left alone: their state belongs to training.
    """
    import torch

    best, spent, size = 0.0, 0.0, 512
    left, right = _matrices(size, dtype)
    while spent < SECONDS:
        begin = perf_counter()
        torch.mm(left, right)
        seconds = perf_counter() - begin
        spent += seconds
        best = max(best, 2 * size**3 / seconds)
        if seconds < SECONDS / 10 and size < 4096:
            size *= 2
            left, right = _matrices(size, dtype)
    return best


def _matrices(size: int, dtype: Any) -> tuple[Any, Any]:
    """Two square matrices that are in memory and whose product was made once."""
    import torch

    left, right = (torch.full((size, size), value, dtype=dtype) for value in (0.5, 0.25))
    torch.mm(left, right)
    return left, right


def _most_used(model: Any) -> Any:
    """The type that most weights compute in; those packed into bytes are computed in the type of the others."""
    sizes: dict[Any, int] = {}
    for weight in model.parameters():
        if weight.is_floating_point():
            sizes[weight.dtype] = sizes.get(weight.dtype, 0) + weight.numel()
    return max(sizes, key=lambda dtype: sizes[dtype])
