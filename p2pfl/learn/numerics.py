"""Torch, pinned: one thread, one instruction set, deterministic algorithms, float32 that is float32.

The same job on other instruction sets or thread counts gives other bits (measured: 0.7 % of an update
after one epoch of a small CNN). Pinning makes a replay on the same kind of machine bit-identical, and
keeps the distance between different machines far below that of another job. Torch is imported here and
nowhere else, at the first use.
"""

from __future__ import annotations

import functools
import importlib
import os
import platform
from pathlib import Path
from typing import Any

from p2pfl.errors import UserError

# AVX2 is what nearly every x86 machine of the last ten years has. Measured: no slower than AVX-512 for
# our models. An operator may set other values, to measure how far apart instruction sets are.
_AVX2_PINS = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_CBWR": "AVX2"}


@functools.cache
def pinned_torch() -> Any:
    """The torch module, pinned for this whole process. Runs no kernel, starts no thread: fork after it."""
    if _has_avx2():
        for name, value in _AVX2_PINS.items():
            os.environ.setdefault(name, value)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    # Without it cuBLAS may choose another order of sums each time (cuBLAS library, section 2.1.4).
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch = importlib.import_module("torch")
    importlib.import_module("torch.nn.functional")
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    # TF32 rounds the factors of a product to ten bits: far from what a processor computes.
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    # Of several kernels for one convolution always the same, and not the one that was quickest just now.
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    # Every tensor of ours is written before it is read; filling it first costs time and changes nothing.
    torch.utils.deterministic.fill_uninitialized_memory = False
    return torch


def device_of(name: str) -> Any:
    """The torch device of this name ("cpu", "cuda", "cuda:1"). Raises UserError when it is not here."""
    torch = pinned_torch()
    kind, _, number = name.partition(":")
    if name != "cpu" and (kind != "cuda" or not (number.isdecimal() or name == "cuda")):
        raise UserError(
            f"there is no device {name!r}",
            because="training runs on cpu, on cuda, or on one of several GPUs as cuda:1",
            fix="--set train.device=cpu",
        )
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        raise UserError(
            f"there is no device {name!r} on this machine",
            because=f"torch {torch.__version__} sees {torch.cuda.device_count()} GPUs",
            fix="--set train.device=cpu, or install a torch with CUDA and look at nvidia-smi",
        )
    return torch.device(name)


def _has_avx2() -> bool:
    """Whether it is safe to ask for AVX2: asking for it on a processor without it ends the process."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    try:
        return " avx2 " in Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
