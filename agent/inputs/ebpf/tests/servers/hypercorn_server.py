"""A server of HTTP/1.1 that upgrades to HTTP/2."""

import asyncio
import sys

from hypercorn.asyncio import serve
from hypercorn.config import Config


async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"x" * 30000})


config = Config()
config.bind = [sys.argv[1]]
asyncio.run(serve(app, config))
