"""What the two models cost: bytes and bits per weight, beside what quantization did."""

from eval.report.grid import Grid
from qconf.run.folder import Manifest
from qconf.wire import Both, ModelSize


def sizes(manifest: Manifest) -> Both[ModelSize] | None:
    """Return both sizes; None for an import, or a run of a server that did not tell them."""
    models = manifest.subject.models if manifest.subject else None
    if models is None or models.base.size is None or models.quantized.size is None:
        return None
    return Both[ModelSize](base=models.base.size, quantized=models.quantized.size)


def size_sentence(both: Both[ModelSize]) -> str:
    """Write what quantization saves."""
    base, quantized = both.base, both.quantized
    return (
        f"The quantized model's weights take {in_bytes(quantized.bytes)} instead of {in_bytes(base.bytes)} "
        f"({quantized.bytes / base.bytes:.2f} of it): {quantized.bits_per_weight:.2f} bits per weight instead of "
        f"{base.bits_per_weight:.2f}, tensors that are not quantized and scales included."
    )


def size_table(both: Both[ModelSize]) -> Grid:
    """Return all that is known of both sizes."""
    base, quantized = both.base, both.quantized
    rows = [
        ["weights", in_bytes(base.bytes), in_bytes(quantized.bytes)],
        ["bits per weight", f"{base.bits_per_weight:.2f}", f"{quantized.bits_per_weight:.2f}"],
        ["bits of a quantized value", _bits(base.quantized_bits), _bits(quantized.quantized_bits)],
        ["entropy of the quantized values, bits", _bits(base.quantized_entropy), _bits(quantized.quantized_entropy)],
        ["lossless compression", f"{base.compression_ratio:.2f}", f"{quantized.compression_ratio:.2f}"],
    ]
    caption = "Sizes; entropy and compression (zlib; of the quantized values, without any of the weights) of a sample."
    return Grid(caption, ["", "base", "quantized"], rows)


def in_bytes(count: int) -> str:
    """Write a number of bytes in decimal units."""
    power = min(3, (len(str(count)) - 1) // 3)
    amount = count / 1000**power
    digits = 0 if not power or amount >= 100 else 1 if amount >= 10 else 2
    return f"{amount:,.{digits}f} {('B', 'kB', 'MB', 'GB')[power]}"


def _bits(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}" if isinstance(value, float) else str(value)
