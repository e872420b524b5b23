"""The pairs that a replay scores: the servers' base with each of its quantized variants, or with one of them."""

from collections.abc import Iterator, Sequence
from typing import Any

import httpx

from client.api import Client
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


def models_of(urls: Sequence[str], timeout: float, transport: httpx.MockTransport | None = None) -> ModelList:
    """Ask every server for its models, once; TaskError names two that do not serve the same ones."""
    served = []
    for url in urls:
        with Client(url, timeout=timeout, retries=0, transport=transport) as client:
            served.append(client.models())
        if differences := list(_differences(served[0], served[-1])):
            raise TaskError(f"{urls[0]} and {url} do not serve the same models: {'; '.join(differences)}")
    return served[0]


def _differences(one: ModelList, two: ModelList) -> Iterator[str]:
    before, after = _described(one), _described(two)
    for name in dict.fromkeys([*before, *after]):
        if before.get(name) != after.get(name):
            yield f"{name} is {before.get(name)!r} and {after.get(name)!r}"


def _described(served: ModelList) -> dict[str, Any]:
    """Return everything but the time of the start, under names such as ``quantized.digest``."""
    parts = [("server", served.server), *((model.id, model) for model in served.data)]
    return {
        f"{name}.{key}": value for name, part in parts for key, value in part.model_dump(exclude={"created"}).items()
    }
