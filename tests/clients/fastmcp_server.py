#!/usr/bin/env python3
"""A small server written with `fastmcp` of PyPI, over stdio; fastmcp_server.mjs has the same names."""

import asyncio

from fastmcp import Context, FastMCP
from fastmcp.exceptions import ToolError
from fastmcp.utilities.types import Image
from pydantic import BaseModel

import fastmcp

PIXEL = bytes.fromhex("89504e470d0a1a0a0000000d494844520000000100000001")

server = FastMCP("small-fastmcp", version="1.2.3", instructions="Adds, echoes and waits.")


class Sum(BaseModel):
    sum: float


@server.tool(annotations={"readOnlyHint": True, "title": "Echo"})
def echo(text: str) -> str:
    """Says it again."""
    return text


@server.tool
def add(a: float, b: float) -> Sum:
    """Adds two numbers."""
    return Sum(sum=a + b)


@server.tool
def picture() -> Image:
    """A picture."""
    return Image(data=PIXEL, format="png")


@server.tool
def fail() -> str:
    """Fails."""
    raise ToolError("it was asked to fail: ☃")


@server.tool
async def count(steps: int, pause_ms: int, context: Context) -> str:
    """Counts, with progress."""
    for step in range(1, steps + 1):
        await asyncio.sleep(pause_ms / 1000)
        await context.report_progress(step, steps)
    return f"counted to {steps}"


@server.resource("note://static", mime_type="text/plain")
def note() -> str:
    return "a note"


@server.resource("note://{number}/text", mime_type="text/plain")
def numbered(number: str) -> str:
    return f"note {number}"


@server.prompt
def greet(name: str) -> str:
    """Greets."""
    return f"Say hello to {name}."


if __name__ == "__main__":
    fastmcp.settings.show_server_banner = False
    server.run(transport="stdio", show_banner=False)
