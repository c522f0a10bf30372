"""What this process can compute on: asked of torch, or in a millisecond without it. Torch-free at import."""

from __future__ import annotations

import ast
import ctypes
import os
import platform
import sys
from importlib.util import find_spec
from pathlib import Path

from longline.parallel.ranks import local_world_size, under_launcher, world_size
from longline.plan import Device, Machine

CPU_BFLOAT16 = frozenset({"amx_bf16", "avx512_bf16", "bf16"})
"""What /proc/cpuinfo calls the instructions, of which one is enough, of x86 and of Arm."""
CAPABILITY_MAJOR = 75
"""The driver's number for the attribute CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR."""


def machine(*, use_cpu: bool = False) -> Machine:
    """Ask torch what this process can compute on, and set how many threads it computes with; imports torch."""
    from longline.process import garbage, threads

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


# --- without torch --------------------------------------------------------------------------------------------------------------


def quick_machine(*, use_cpu: bool = False) -> Machine:
    """What `machine` finds, but for threads, without importing torch: enough to plan and check, never to train.

    Where torch is built for CUDA, the driver is asked, which must not be done before a fork that computes on a GPU.
    """
    found = None if use_cpu else _accelerator()
    device, bfloat16 = found or ("cpu", _cpu_has_bfloat16())
    return Machine(device, bfloat16, world_size())


def _accelerator() -> tuple[Device, bool] | None:
    """The device beside the CPU that the installed torch would take, and whether it computes in bfloat16; None without one."""
    build = _torch_build()
    if build.get("cuda") and (major := _cuda_major()):
        return "cuda", major >= 8
    if build.get("hip") and Path("/dev/kfd").exists():  # every AMD card that torch still supports has bfloat16
        return "cuda", True
    if sys.platform == "darwin" and platform.machine() == "arm64":
        return "mps", False
    if build.get("xpu") and Path("/dev/dri").is_dir():
        return "xpu", True
    return None


def _torch_build() -> dict[str, str | None]:
    """What torch was built for, as its version.py has it: `cuda`, `hip`, `xpu` with versions or None; empty without torch.

    The file is read, not run: importing it would import torch.
    """
    spec = find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        return {}
    tree = ast.parse((Path(spec.submodule_search_locations[0]) / "version.py").read_text(encoding="utf-8"))
    found: dict[str, str | None] = {}
    for line in tree.body:
        targets = line.targets if isinstance(line, ast.Assign) else [line.target] if isinstance(line, ast.AnnAssign) else []
        value = line.value if isinstance(line, (ast.Assign, ast.AnnAssign)) else None
        if isinstance(value, ast.Constant):
            found |= {target.id: value.value for target in targets if isinstance(target, ast.Name)}  # type: ignore[misc]
    return found


def _cuda_major() -> int:
    """The first number of the compute capability of the first GPU, 0 without one; the driver obeys CUDA_VISIBLE_DEVICES itself."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return 0
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return 0
    count, major = ctypes.c_int(0), ctypes.c_int(0)
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
        return 0
    device = ctypes.c_int(0)
    if driver.cuDeviceGet(ctypes.byref(device), 0):
        return 0
    failed = driver.cuDeviceGetAttribute(ctypes.byref(major), CAPABILITY_MAJOR, device)
    return 0 if failed else major.value


def _cpu_has_bfloat16() -> bool:
    """Whether the first core's line of flags names one of `CPU_BFLOAT16`; no where there is no /proc/cpuinfo, as on a Mac."""
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8", errors="replace") as lines:
            flags = next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
    except OSError:
        return False
    return not CPU_BFLOAT16.isdisjoint(flags.split())
