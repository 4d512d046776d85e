"""The precision, attention kernel and threads that are fastest on this machine."""

import os

import torch


def cpu_has_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 matrices in hardware: elsewhere it is slower than float32, not faster."""
    if not hasattr(torch.cpu, "get_capabilities"):  # torch 2.9 cannot tell
        return False
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def preferred_dtype() -> str:
    """The number type that this machine computes fastest with."""
    return "bfloat16" if torch.cuda.is_available() or cpu_has_bfloat16() else "float32"


def preferred_kernel(bfloat16: bool, device: torch.device) -> str | None:
    """The attention kernel to ask for; None leaves it to transformers."""
    # With bfloat16 on a CPU, plain steps are faster than the fused kernel (docs/performance.md).
    return "eager" if bfloat16 and device.type == "cpu" else None


def leave_cores_to_workers(num_workers: int) -> None:
    """Without a GPU: keeps this process's threads off the cores that decode, which busy threads would wait for."""
    if not torch.accelerator.is_available():
        torch.set_num_threads(max(1, min(torch.get_num_threads(), (os.cpu_count() or 1) - num_workers)))
