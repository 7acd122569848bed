"""What a run's figures depend on besides the run: versions and hardware."""

import contextlib
import os
import platform
import subprocess
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("torchvision", "timm", "albumentations", "numpy", "scikit-learn")


def versions() -> dict[str, str]:
    """Versions of Python and of those packages that decide the figures and are there."""
    others: dict[str, str] = {}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            others[name] = metadata.version(name)
    # torch's own word tells the CUDA build as well.
    return {"python": platform.python_version(), "torch": str(torch.__version__), **others}


def hardware(device: str) -> dict[str, Any]:
    """The machine in words, and how much of it is used."""
    found: dict[str, Any] = {
        "device": device,
        "cpu": _cpu_name(),
        "cpus": cpus(),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
    }
    if device == "cuda":
        found["gpu"] = torch.cuda.get_device_name()
        found["cuda"] = torch.version.cuda
        if _kernels_overlap():
            found["overlap"] = True
    return found


def _kernels_overlap() -> bool:
    if find_spec("triton") is None:
        return False
    from convblocks.ops import _start

    return _start.overlap(torch.cuda.current_device())


def cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"


def instructions() -> str:
    """The widest vectors of the CPU, as torch names them, and what multiplies bfloat16: its name does not tell."""
    try:
        flags = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        flags = set[str]()
    fast = [words for flag, words in (("avx512_bf16", "AVX512_BF16"), ("amx_bf16", "AMX")) if flag in flags]
    return " ".join(fast or [torch.backends.cpu.get_cpu_capability()])


def git_commit() -> str | None:
    """Commit of the script, marked where the working tree differs from it; None outside a repository."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def bf16_is_fast(device: str) -> bool:
    """True where the hardware multiplies bfloat16 itself; elsewhere bfloat16 is slower than float32."""
    if device == "cuda":
        return torch.cuda.get_device_capability() >= (8, 0)
    # torch has no public name for these; where a release lacks one, float32 is the safe answer.
    capabilities = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(hasattr(torch.cpu, name) and getattr(torch.cpu, name)() for name in capabilities)
