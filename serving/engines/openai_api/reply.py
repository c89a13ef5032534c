"""One POST and its whole reply, within limits that hold against a server that means harm."""

from typing import Any

import httpx

MAX_REPLY_BYTES = 64 * 2**20  # eight choices of 131,072 tokens with their text take some 5 MB


class UnreadableReply(ValueError):
    """A reply that is not taken in: too long, or packed so that its length cannot be known."""


async def whole_reply(
    client: httpx.AsyncClient, url: str, body: dict[str, Any], headers: dict[str, str]
) -> httpx.Response:
    """The reply once it has ended. Leaving early closes the connection, so that the server need not go on.

    Raises:
        UnreadableReply: longer than any answer, or compressed, which was not asked for.
    """
    content = bytearray()
    async with client.stream("POST", url, json=body, headers=headers) as reply:
        if (packed := reply.headers.get("content-encoding", "identity")) != "identity":
            raise UnreadableReply(f"the reply is packed ({packed[:20]}), though we asked for it as it is")
        async for block in reply.aiter_bytes():
            content += block
            if len(content) > MAX_REPLY_BYTES:
                raise UnreadableReply(f"the reply is longer than {MAX_REPLY_BYTES} bytes")
    return httpx.Response(reply.status_code, headers=reply.headers, content=bytes(content))
