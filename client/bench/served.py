"""The pairs that a replay scores: the server's base with each of its quantized variants, or with one of them."""

from client.bench.items import TaskError
from client.errors import BadReply
from qconf.wire import VARIANT_NAME, Both, ModelInfo, ModelList


def pairs_of(served: ModelList, variant: str | None = None) -> dict[str, Both[ModelInfo]]:
    """Return the base and each variant, or only ``variant``, by the variant's name, in the server's order.

    BadReply where the server has no such models; TaskError where it does not have ``variant``.
    """
    names = [model.id for model in served.data]
    models = dict(zip(names, served.data, strict=True))
    base = models.pop("base", None)
    if base is None or not models or len(models) + 1 != len(names):
        raise BadReply(f"expected 'base' and one quantized variant or more, each with a name of its own, got {names}")
    for name in models:
        if not VARIANT_NAME.fullmatch(name):
            raise BadReply(
                f"the server has a variant named {name!r}, expected letters, digits, '.', '_' and '-', at most 100: "
                "its run is written to a folder of that name"
            )
    if variant is not None and variant not in models:
        raise TaskError(f"--variant is '{variant}', expected a variant that the server has: {', '.join(models)}")
    return {name: Both(base=base, quantized=model) for name, model in models.items() if variant in (None, name)}
