#!/usr/bin/env python3
"""The client of the Python SDK 1.x (`mcp`). It speaks the legacy era only."""

import contextlib
import os

import anyio
from mcp import ClientSession, StdioServerParameters, stdio_client, types
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client
from pydantic import RootModel

import harness
from checks import checks

EVENTS = {
    types.ResourceUpdatedNotification: "updated",
    types.ToolListChangedNotification: "tools",
    types.PromptListChangedNotification: "prompts",
    types.ResourceListChangedNotification: "resources",
}


# A result as it came.
Raw = RootModel[dict]


def wire(model) -> dict:
    return model.model_dump(by_alias=True, mode="json", exclude_none=True)


class Session:
    era = "legacy"

    def __init__(self, session: ClientSession, opened: types.InitializeResult, session_id) -> None:
        self.session = session
        self.session_id = session_id
        self.version = opened.protocolVersion
        self.server_name = opened.serverInfo.name
        self.server_info = wire(opened.serverInfo)
        self.instructions = opened.instructions
        self.capabilities = wire(opened.capabilities)

    async def list(self, kind: str) -> list[dict]:
        fetch, field = {
            "tools": (self.session.list_tools, "tools"),
            "prompts": (self.session.list_prompts, "prompts"),
            "resources": (self.session.list_resources, "resources"),
            "templates": (self.session.list_resource_templates, "resourceTemplates"),
        }[kind]
        items, cursor = [], None
        while True:
            page = wire(await fetch(params=types.PaginatedRequestParams(cursor=cursor)))
            items += page[field]
            if (cursor := page.get("nextCursor")) is None:
                return items

    async def call(self, name: str, arguments: dict, on_progress=None, meta=None) -> dict:
        return wire(await self.session.call_tool(name, arguments, progress_callback=on_progress, meta=meta))

    async def call_and_cancel(self, name: str, arguments: dict, after_seconds: float) -> None:
        # This SDK leaves the notification to the caller and does not tell the id of a request.
        request_id = self.session._request_id
        with anyio.move_on_after(after_seconds) as scope:
            await self.call(name, arguments)
        harness.expect(scope.cancelled_caught, "the call ended before it was cancelled")
        params = types.CancelledNotificationParams(requestId=request_id, reason="test")
        await self.session.send_notification(
            types.ClientNotification(types.CancelledNotification(params=params))
        )

    async def raw(self, method: str, params: dict) -> dict:
        return (await self.session.send_request(types.Request[dict, str](method=method, params=params), Raw)).root

    async def read(self, uri: str) -> dict:
        return wire(await self.session.read_resource(uri))

    async def prompt(self, name: str, arguments: dict) -> dict:
        return wire(await self.session.get_prompt(name, arguments))

    async def complete(self, ref: dict, argument: dict, context: dict | None) -> dict:
        kinds = {"ref/prompt": types.PromptReference, "ref/resource": types.ResourceTemplateReference}
        return wire(await self.session.complete(kinds[ref["type"]](**ref), argument, context))

    @contextlib.asynccontextmanager
    async def watch(self, uri: str | None = None, changes_of: str | None = None):
        if uri:
            await self.session.subscribe_resource(uri)
        yield

    async def set_level(self, level: str) -> None:
        await self.session.set_logging_level(level)

    async def roots_changed(self) -> None:
        await self.session.send_roots_list_changed()

    async def ping(self) -> None:
        await self.session.send_ping()


@contextlib.asynccontextmanager
async def transport(options):
    """What to read from, what to write to, and what tells the id of the session."""
    if options.program:
        with open(os.devnull, "w") as nowhere:
            async with stdio_client(StdioServerParameters(**options.program), nowhere) as (reader, writer):
                yield reader, writer, lambda: None
        return
    if options.sse:
        async with sse_client(options.url, headers=options.headers) as (reader, writer):
            yield reader, writer, lambda: None
        return
    async with (
        create_mcp_http_client(headers=options.headers) as http,
        streamable_http_client(options.url, http_client=http) as streams,
    ):
        yield streams


@contextlib.asynccontextmanager
async def connect(options, answers, events):
    async def elicit(_context, params):
        answer = answers.get("elicit", lambda _params: {"action": "cancel"})
        return types.ElicitResult(**answer(wire(params)))

    async def sample(_context, params):
        return types.CreateMessageResult(**answers["sample"](wire(params)))

    async def roots(_context):
        return types.ListRootsResult(roots=answers.get("roots", list)())

    async def log(params):
        events("log", wire(params))

    async def notified(message):
        notification = getattr(message, "root", message)
        if name := EVENTS.get(type(notification)):
            events(name, str(notification.params.uri) if name == "updated" else None)

    async with (
        transport(options) as (reader, writer, session_id),
        ClientSession(
            reader,
            writer,
            elicitation_callback=elicit,
            sampling_callback=sample,
            list_roots_callback=roots,
            logging_callback=log,
            message_handler=notified,
            client_info=types.Implementation(name="client-py-v1", version="1.0.0"),
        ) as session,
    ):
        yield Session(session, await session.initialize(), session_id)


if __name__ == "__main__":
    harness.main(connect, checks)
