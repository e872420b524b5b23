"""What this machine's processor computes fast. No vLLM, and torch only when asked."""


def fast_dtype() -> str:
    """Return the dtype of the fastest arithmetic on this CPU: "bfloat16" with instructions for it, else "float32".

    Without them 16-bit matrix products are emulated, several times slower than float32.
    """
    import torch

    capabilities = torch.cpu.get_capabilities()
    has_bfloat16 = any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return "bfloat16" if has_bfloat16 else "float32"
