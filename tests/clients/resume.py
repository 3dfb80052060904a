#!/usr/bin/env python3
"""The client of the Python SDK 1.x whose connection breaks in the middle of an answer: it comes back for the rest by
itself (`Last-Event-ID`), and has every notification once, and the answer.

    resume.py URL TOOL STEPS

STEPS is the progress that the tool tells, as a JSON list.
"""

import json
import sys

import anyio
import httpx
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client

CALL_SECONDS = 20


class Broken(httpx.AsyncByteStream):
    """The first piece of a body, and then an error as of a connection that was reset."""

    def __init__(self, body: httpx.AsyncByteStream) -> None:
        self.body = body

    async def __aiter__(self):
        async for piece in self.body:
            yield piece
            raise httpx.ReadError("the connection broke")

    async def aclose(self) -> None:
        await self.body.aclose()


class Breaking(httpx.AsyncHTTPTransport):
    def __init__(self) -> None:
        super().__init__()
        self.to_break = 1
        self.resumed = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await super().handle_async_request(request)
        self.resumed += "last-event-id" in request.headers and response.is_success
        is_stream = "event-stream" in response.headers.get("content-type", "")
        if request.method == "POST" and is_stream and self.to_break > 0:
            self.to_break -= 1
            response.stream = Broken(response.stream)
        return response


async def main() -> int:
    url, tool, expected = sys.argv[1:]
    transport, steps = Breaking(), []

    async def on_progress(progress: float, _total, _message) -> None:
        steps.append(int(progress))

    async with (
        httpx.AsyncClient(transport=transport, timeout=CALL_SECONDS) as http,
        streamable_http_client(url, http_client=http) as streams,
        ClientSession(streams[0], streams[1]) as session,
    ):
        await session.initialize()
        with anyio.fail_after(CALL_SECONDS):
            result = await session.call_tool(tool, {}, progress_callback=on_progress)
    ok = transport.resumed == 1 and not result.isError and steps == json.loads(expected)
    print(f"py-v1: {'ok' if ok else 'FAILED'}: resumed {transport.resumed} times, progress {steps}")
    return 0 if ok else 1


sys.exit(anyio.run(main))
