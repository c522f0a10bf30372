"""What this process can compute on. Torch-free at import."""

from __future__ import annotations

from longline.parallel.ranks import local_world_size, under_launcher, world_size
from longline.plan import Device, Machine
from longline.process import garbage, threads


def machine(*, use_cpu: bool = False) -> Machine:
    """Ask torch what this process can compute on, and set how many threads it computes with; imports torch."""
    with garbage.paused():
        import torch

    device: Device = "cpu"
    if not use_cpu:
        if torch.cuda.is_available():
            device = "cuda"
        elif torch.backends.mps.is_available():
            device = "mps"
        elif hasattr(torch, "xpu") and torch.xpu.is_available():
            device = "xpu"
    number, why = threads.settle(local_world_size(), launched=under_launcher())
    return Machine(device, _computes_in_bfloat16(device), world_size(), number, why)


def _computes_in_bfloat16(device: Device) -> bool:
    """Without AMX or AVX512-BF16 (or their Arm kin) a CPU emulates bfloat16, slower than float32; so do older GPUs."""
    import torch

    if device != "cpu":
        return device == "xpu" or (device == "cuda" and torch.cuda.get_device_capability() >= (8, 0))
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name) for name in ("amx_bf16", "amx", "avx512_bf16", "bf16"))
