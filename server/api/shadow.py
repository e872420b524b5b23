"""Routes for mirrored calls: they are accepted at once, and scored later or not at all."""

from typing import Annotated

from fastapi import APIRouter, Depends, Header, Request

from qconf.openai_calls import SOURCE_CHARACTERS, SOURCE_MEANING, Call, ObserveRequest
from qconf.wire import Reply
from server.api.body import BodyRoute
from server.api.errors import ERRORS, NOT_FOUND
from server.api.work import ServingDependency
from server.errors import NotFound
from server.shadow.sampling import CHAT, COMPLETIONS, OBSERVE
from server.shadow.shadow import Shadow
from server.shadow.sources import MIRROR

router = APIRouter(route_class=BodyRoute, responses={**ERRORS, **NOT_FOUND})
MOST_CHARACTERS = 1000


class Accepted(Reply):
    """What became of a mirrored call at once. ``queued``: it will be scored."""

    outcome: str


async def _shadow(serving: ServingDependency) -> Shadow:
    serving.service.check_ready()
    if serving.shadow is None:
        raise NotFound("mirrored calls are not taken: the server was started without --shadow-rate")
    return serving.shadow


ShadowDependency = Annotated[Shadow, Depends(_shadow)]
Key = Annotated[
    str | None,
    Header(
        alias="X-Qconf-Key",
        max_length=MOST_CHARACTERS,
        description="What stays the same from call to call, such as a user or a session. Default: as in /observe.",
    ),
]
Source = Annotated[str, Header(alias="X-Qconf-Source", max_length=SOURCE_CHARACTERS, description=SOURCE_MEANING)]


@router.post(OBSERVE, status_code=202)
async def observe(body: ObserveRequest, request: Request, shadow: ShadowDependency) -> Accepted:
    """Take a call that another server answered, with its answer, to be scored later."""
    size = len(await request.body())
    return Accepted(outcome=shadow.take(OBSERVE, body.source, body.key, body.request, body.response, size))


@router.post(COMPLETIONS, status_code=202)
async def mirrored_completion(
    body: Call, request: Request, shadow: ShadowDependency, key: Key = None, source: Source = MIRROR
) -> Accepted:
    """Take a mirrored call of OpenAI's completions; its prompt is scored later."""
    return await _mirrored(COMPLETIONS, source, body, request, shadow, key)


@router.post(CHAT, status_code=202)
async def mirrored_chat(
    body: Call, request: Request, shadow: ShadowDependency, key: Key = None, source: Source = MIRROR
) -> Accepted:
    """Take a mirrored call of OpenAI's chat completions; its messages are scored later."""
    return await _mirrored(CHAT, source, body, request, shadow, key)


async def _mirrored(route: str, source: str, body: Call, request: Request, shadow: Shadow, key: str | None) -> Accepted:
    size = len(await request.body())
    return Accepted(outcome=shadow.take(route, source, key, body, None, size))
