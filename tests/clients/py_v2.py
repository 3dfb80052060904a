#!/usr/bin/env python3
"""The client of the Python SDK 2.x (`mcp`): `--era auto` (its default), which speaks the modern era with a
server that has it, `--era legacy`, or `--era modern`, which speaks no other."""

import contextlib
import os

import anyio
import mcp_types as types
from mcp import Client, StdioServerParameters, stdio_client
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client
from pydantic import RootModel, TypeAdapter

import harness
from checks import checks

EVENTS = {
    types.ResourceUpdatedNotification: "updated",
    types.ToolListChangedNotification: "tools",
    types.PromptListChangedNotification: "prompts",
    types.ResourceListChangedNotification: "resources",
}
MODERN = "2026-07-28"
LOG_LEVEL = "io.modelcontextprotocol/logLevel"


# A result as it came.
Raw = RootModel[dict]


def wire(model) -> dict:
    return model.model_dump(by_alias=True, mode="json", exclude_none=True)


def parsed(kind, value: dict):
    """The SDK's object for a dict in wire spelling."""
    return TypeAdapter(kind).validate_python(value)


class Session:
    def __init__(self, client: Client, seen: dict) -> None:
        self.client = client
        self.session_id = lambda: seen.get("session")
        self.version = client.protocol_version
        self.era = "modern" if self.version >= MODERN else "legacy"
        self.server_name = client.server_info and client.server_info.name
        self.server_info = client.server_info and wire(client.server_info)
        self.instructions = client.instructions
        self.capabilities = wire(client.server_capabilities)
        self.level_meta = {}

    async def list(self, kind: str) -> list[dict]:
        fetch, field = {
            "tools": (self.client.list_tools, "tools"),
            "prompts": (self.client.list_prompts, "prompts"),
            "resources": (self.client.list_resources, "resources"),
            "templates": (self.client.list_resource_templates, "resourceTemplates"),
        }[kind]
        items, cursor = [], None
        while True:
            page = wire(await fetch(cursor=cursor, cache_mode="refresh"))
            items += page[field]
            if (cursor := page.get("nextCursor")) is None:
                return items

    async def call(self, name: str, arguments: dict, on_progress=None, meta=None) -> dict:
        meta = {**self.level_meta, **(meta or {})} or None
        return wire(await self.client.call_tool(name, arguments, progress_callback=on_progress, meta=meta))

    async def call_and_cancel(self, name: str, arguments: dict, after_seconds: float) -> None:
        with anyio.move_on_after(after_seconds) as scope:
            await self.call(name, arguments)
        harness.expect(scope.cancelled_caught, "the call ended before it was cancelled")

    async def raw(self, method: str, params: dict) -> dict:
        request = types.Request[dict, str](method=method, params=params)
        return (await self.client.session.send_request(request, Raw)).root

    async def read(self, uri: str) -> dict:
        return wire(await self.client.read_resource(uri, cache_mode="refresh"))

    async def prompt(self, name: str, arguments: dict) -> dict:
        return wire(await self.client.get_prompt(name, arguments))

    async def complete(self, ref: dict, argument: dict, context: dict | None) -> dict:
        kinds = {"ref/prompt": types.PromptReference, "ref/resource": types.ResourceTemplateReference}
        return wire(await self.client.complete(kinds[ref["type"]](**ref), argument, context))

    @contextlib.asynccontextmanager
    async def watch(self, uri: str | None = None, changes_of: str | None = None):
        if self.era == "modern":
            wanted = {"resource_subscriptions": [uri]} if uri else {f"{changes_of}_list_changed": True}
            async with self.client.listen(**wanted):
                yield
            return
        if uri:
            await self.client.subscribe_resource(uri)
        yield

    async def set_level(self, level: str) -> None:
        if self.era == "modern":
            self.level_meta = {LOG_LEVEL: level}
        else:
            await self.client.set_logging_level(level)

    async def roots_changed(self) -> None:
        await self.client.send_roots_list_changed()

    async def ping(self) -> None:
        await self.client.send_ping()


@contextlib.asynccontextmanager
async def connect(options, answers, events):
    seen = {}

    async def note_session(response) -> None:
        if session_id := response.headers.get("mcp-session-id"):
            seen["session"] = session_id

    async def elicit(_context, params):
        answer = answers.get("elicit", lambda _params: {"action": "cancel"})
        return parsed(types.ElicitResult, answer(wire(params)))

    async def sample(_context, params):
        return parsed(types.CreateMessageResult, answers["sample"](wire(params)))

    async def roots(_context):
        return parsed(types.ListRootsResult, {"roots": answers.get("roots", list)()})

    async def log(params):
        events("log", wire(params))

    async def notified(message):
        if name := EVENTS.get(type(message)):
            events(name, str(message.params.uri) if name == "updated" else None)

    @contextlib.asynccontextmanager
    async def transport():
        if options.program:
            with open(os.devnull, "w") as nowhere:
                yield stdio_client(StdioServerParameters(**options.program), nowhere)
            return
        if options.sse:
            yield sse_client(options.url, headers=options.headers)
            return
        async with create_mcp_http_client(headers=options.headers) as http:
            http.event_hooks["response"].append(note_session)
            yield streamable_http_client(options.url, http_client=http)

    async with (
        transport() as server,
        Client(
            server,
            mode=MODERN if options.era == "modern" else options.era,
            elicitation_callback=elicit,
            sampling_callback=sample,
            list_roots_callback=roots,
            logging_callback=log,
            message_handler=notified,
            client_info=types.Implementation(name="client-py-v2", version="1.0.0"),
        ) as client,
    ):
        if options.era == "modern":
            # Pinned to a revision the SDK takes the server's word for nothing, and asks for none.
            found = await client.session.send_discover(MODERN)
            client.session.adopt(types.DiscoverResult.model_validate(found))
        yield Session(client, seen)


if __name__ == "__main__":
    harness.main(connect, checks)
