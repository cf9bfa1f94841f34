"""In which type weights and sums are kept."""

from __future__ import annotations

import torch


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """float32 for the shorter types, and a longer one as it is."""
    return torch.promote_types(dtype, torch.float32)


def multiplies_bfloat16(device_type: str) -> bool:
    """Whether a device has instructions for products of bfloat16.

    Without them a product is computed number by number: on two cores with AVX2 alone at 1 to 21 GFLOP/s, beside 140 in
    float32.
    """
    if device_type == "cpu":
        capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()  # newer versions
        return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    if device_type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return True
