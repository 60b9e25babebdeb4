"""Bfloat16 where a device computes in it natively."""

import torch


def computes_bfloat16(device: torch.device) -> bool:
    """Whether a device computes in bfloat16 natively.

    A CPU without AVX-512 BF16 or AMX emulates it some twenty times slower than float32.
    """
    if device.type == "cuda":
        with torch.cuda.device(device):
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def autocast(device: torch.device, *, amp: bool) -> torch.autocast:
    """Bfloat16 autocast if ``amp`` is true and ``device`` computes in it natively, else full precision."""
    return torch.autocast(device.type, torch.bfloat16, enabled=amp and computes_bfloat16(device))
