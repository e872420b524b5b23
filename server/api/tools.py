"""Routes that other tools speak, with the fields that OpenAI and vLLM give them."""

from fastapi import APIRouter, Request, Response

from qconf.wire import (
    DetokenizeReply,
    DetokenizeRequest,
    ModelList,
    TokenizeReply,
    TokenizeRequest,
    TokenizerInfo,
)
from server.api.body import BodyRoute
from server.api.errors import ERRORS, UNAUTHORIZED
from server.api.work import ServingDependency, answered
from server.scoring.admission import NOTHING
from server.scoring.tokenization import PairTokenizer

router = APIRouter(route_class=BodyRoute)
TOKENS = {"tokens": "$response.body#/tokens"}
LINKS = {
    "text": {"operationId": "detokenize", "requestBody": TOKENS},
    "comparison": {"operationId": "compare", "requestBody": {"prompt": "$response.body#/tokens"}},
}
"""What the ids of a text are good for."""


@router.get("/v1/models", responses=UNAUTHORIZED)
async def models(serving: ServingDependency) -> ModelList:
    """Return the two models of the pair, base first, and what serves them."""
    return serving.service.models


@router.post("/tokenize", response_model=TokenizeReply, responses={**ERRORS, 200: {"links": LINKS}})
async def tokenize(body: TokenizeRequest, request: Request, serving: ServingDependency) -> Response:
    """Return the token ids of a text or chat, and each token's own text."""
    service = serving.service

    def split(tokenizer: PairTokenizer) -> str:
        ids, continuation = tokenizer.split(body)
        reply = TokenizeReply(
            count=len(ids),
            max_model_len=service.engine.info.max_model_len,
            tokens=ids,
            token_strs=tokenizer.texts(ids) if body.return_token_strs else None,
            continuation=continuation,
        )
        # Here, because the event loop would be blocked for a second by a reply of a million tokens.
        return reply.model_dump_json()

    json = await answered(request, serving, NOTHING, lambda _: service.tools_thread.run(split))
    return Response(json, media_type="application/json")


@router.post("/detokenize", operation_id="detokenize", responses=ERRORS)
async def detokenize(body: DetokenizeRequest, request: Request, serving: ServingDependency) -> DetokenizeReply:
    """Return the text of token ids."""

    def join(tokenizer: PairTokenizer) -> DetokenizeReply:
        return DetokenizeReply(prompt=tokenizer.decode(tokenizer.check_ids(body.tokens, "tokens")))

    return await answered(request, serving, NOTHING, lambda _: serving.service.tools_thread.run(join))


@router.get("/tokenizer_info", responses=UNAUTHORIZED)
async def tokenizer_info(serving: ServingDependency) -> TokenizerInfo:
    """Return the special tokens and the chat template of the tokenizer that both models share."""
    service = serving.service
    return await service.tools_thread.run(PairTokenizer.info, service.engine.info.eos_token_ids)
