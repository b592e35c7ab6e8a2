"""Where a training runs, and what there is of it: device, precision, threads, memory."""

import os
from pathlib import Path
from typing import Literal

import torch

from training.options import FitError

CGROUP = Path("/sys/fs/cgroup")


def pick_device(wanted: str, number: int = 0, workers: int = 1) -> torch.device:
    """`auto` is CUDA where there is one; of several workers of a machine, `number` has the GPU of that number.

    Raises:
        FitError: CUDA was asked for and there is none, or there are fewer GPUs than workers.
    """
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cuda" and not torch.cuda.is_available():
        raise FitError("CLASSY_DEVICE=cuda: torch finds no CUDA device here; set it to cpu or auto")
    if wanted == "cpu" or workers == 1:
        return torch.device(wanted)
    if workers > torch.cuda.device_count():
        raise FitError(
            f"{workers} workers and {torch.cuda.device_count()} GPUs on this machine: each needs its own; lower "
            "CLASSY_TRAIN_WORKERS, or set CLASSY_DEVICE=cpu"
        )
    torch.cuda.set_device(number)
    return torch.device("cuda", number)


def pick_precision(wanted: str, device: torch.device) -> Literal["float32", "bfloat16"]:
    """`auto` is bfloat16 where the chip multiplies it natively: measured 1.3 to 5 times as fast on such CPUs."""
    if wanted in ("float32", "bfloat16"):
        return wanted  # type: ignore[return-value]
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    able = torch.cpu.get_capabilities()
    return "bfloat16" if able.get("avx512_bf16") or able.get("amx_bf16") else "float32"


def use_threads(threads: int, processes: int = 1) -> int:
    """Let torch use so many threads; 0: a core each, of those that fall to one of `processes`. Gives the number."""
    if threads == 0:
        threads = max(1, cores() // processes)
    torch.set_num_threads(threads)
    return threads


def cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_memory(device: torch.device) -> int | None:
    """Bytes that can still be had on the device, container limits included; None where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        free = int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None
    try:
        limit = int((CGROUP / "memory.max").read_text())
        used = int((CGROUP / "memory.current").read_text())
        kept = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
        # Pages of files count as used, and are given back when they are wanted.
        return min(free, limit - used + int(kept.get("inactive_file", 0)))
    except (OSError, ValueError):
        return free
