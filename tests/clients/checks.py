"""The checks of the two Python clients; checks.mjs has the same under the same names."""

import base64
import json
import random
import urllib.error
import urllib.request
from functools import partial

import anyio
import anyio.to_thread

from harness import POKE_SECONDS, Skip, bearer, digest, expect, explain, refused, text_of
from same import same_checks

LARGE_BYTES = 256 * 1024
CONCURRENT_CALLS = 20

# How long a server gets to ask for the roots by itself.
OWN_REQUEST_SECONDS = 1.0


def checks(profile: dict):
    """The checks of a profile: pairs of a name and what to do."""
    yield "open", check_open
    yield from same_checks(profile)
    yield "tools/list", check_tools
    yield "tools/list schemas", check_schemas
    yield "prompts/list", check_prompts
    yield "resources/list", partial(check_uris, kind="resources", field="uri")
    yield "resources/templates/list", partial(check_uris, kind="templates", field="uriTemplate")
    yield "tools/call text", check_text
    yield "tools/call structured content", check_structured
    for kind in profile.get("contents", {}):
        yield f"tools/call {kind}", partial(check_content, kind=kind)
    yield "tools/call x-mcp-header", check_argument_headers
    yield "tools/call _meta", check_meta
    yield "client capabilities", check_capabilities
    yield "tools/call error result", check_tool_error
    yield "tools/call unknown tool", check_unknown_tool
    yield "tools/call progress", check_progress
    yield "tools/call over two connections", check_reconnection
    yield f"tools/call {CONCURRENT_CALLS} at once", check_concurrent
    yield "tools/call large", check_large
    yield "tools/call big result", check_big
    yield "elicitation form accept", partial(check_elicitation, action="accept")
    yield "elicitation form decline", partial(check_elicitation, action="decline")
    yield "elicitation url accept", partial(check_url_elicitation, action="accept")
    yield "elicitation url decline", partial(check_url_elicitation, action="decline")
    yield "elicitation url required", check_url_required
    yield "sampling", check_sampling
    yield "sampling two clients", check_sampling_two
    for kind in profile.get("inputs", {}):
        yield f"input {kind}", partial(check_input, kind=kind)
    yield "roots/list", check_roots
    yield "roots/list_changed", check_roots_changed
    yield "resources/read", partial(check_read, key="resource")
    yield "resources/read template", partial(check_read, key="resource_template")
    yield "resources/read blob", partial(check_read, key="resource_blob")
    yield "resources/read unknown", check_unknown_resource
    yield "resources/subscribe", check_subscription
    yield "prompts/get", check_prompt
    yield "prompts/get embedded resource", check_prompt_resource
    yield "prompts/get input", check_prompt_input
    yield "prompts/get unknown", check_unknown_prompt
    for kind in profile.get("completions", {}):
        yield f"completion {kind}", partial(check_completion, kind=kind)
    yield "logging", check_logging
    yield "logging level", check_log_levels
    yield "ping", check_ping
    yield "tools/list_changed", partial(check_list_changed, name="tools")
    yield "prompts/list_changed", partial(check_list_changed, name="prompts")
    yield "resources/list_changed", partial(check_list_changed, name="resources")
    # After that a gateway may be in doubt for a while whom a server asks that names no call.
    yield "tools/call cancel", check_cancel
    yield "close", check_close
    yield "second client", check_second


async def check_open(run):
    session = await run.open()
    expect(
        session.version and session.capabilities.get("tools") is not None,
        f"no tools in {session.capabilities}",
    )
    return f"{session.era} {session.version} {session.server_name or 'no server name'}"


async def steady_tools(run, session) -> list[dict]:
    """All tools but the one which a check adds and removes."""
    toggled = run.options.profile.get("list_changed", {}).get("tools", {}).get("toggles")
    return [tool for tool in run.plain(await session.list("tools")) if tool["name"] != toggled]


async def check_tools(run):
    session = await run.open()
    names = [tool["name"] for tool in await steady_tools(run, session)]
    expected = run.options.profile.get("text", {}).get("tool")
    expect(not expected or expected in names, f"missing tool among {names}")
    expect(len(set(names)) == len(names), f"a name twice among {names}")
    return f"{len(names)} tools", names


async def check_schemas(run):
    session = await run.open()
    tools = await steady_tools(run, session)
    fields = ("inputSchema", "outputSchema", "annotations")
    value = [f"{tool['name']} {digest({field: tool.get(field) for field in fields})}" for tool in tools]
    return f"{len(tools)} schemas", value


async def check_prompts(run):
    session = await run.open()
    expected = run.want(session, "prompt")["name"]
    names = [prompt["name"] for prompt in run.plain(await session.list("prompts"))]
    expect(expected in names, f"missing prompt among {names}")
    return f"{len(names)} prompts", names


async def check_uris(run, kind, field):
    session = await run.open()
    run.want(session, "resource_template" if kind == "templates" else "resource")
    uris = sorted(item[field] for item in await session.list(kind))
    expect(uris, f"no {kind}")
    return f"{len(uris)} {kind}", uris


async def check_text(run):
    session = await run.open()
    wanted = run.want(session, "text")
    text = text_of(await run.call(session, wanted))
    expect(wanted["contains"] in text, text)
    return text


async def check_structured(run):
    session = await run.open()
    wanted = run.want(session, "structured")
    await session.list("tools")
    found = (await run.call(session, wanted)).get("structuredContent")
    expect(found == wanted["equals"], f"{found}")
    return json.dumps(found)


async def check_content(run, kind):
    session = await run.open()
    wanted = run.want(session, "contents")[kind]
    content = (await run.call(session, wanted))["content"]
    types = [block["type"] for block in content]
    expect(types == wanted["types"], f"types {types}")
    media = [f"{block['mimeType']} {digest(block['data'])}" for block in content if "data" in block]
    uris = [block.get("uri") or block.get("resource", {}).get("uri") for block in content]
    return ",".join(types), media + [uri for uri in uris if uri]


async def check_argument_headers(run):
    """Some of these arguments travel as HTTP headers too in the modern era."""
    session = await run.open()
    wanted = run.want(session, "argument_headers")
    await session.list("tools")
    found = (await run.call(session, wanted)).get("structuredContent")
    expect(found == wanted["arguments"], f"{found}")
    return json.dumps(found)


async def check_meta(run):
    session = await run.open()
    meta = {"example.com/note": {"kept": ["as", "sent"]}}
    seen = (await run.call(session, run.want(session, "whoami"), meta=meta))["structuredContent"]
    found = (seen.get("meta") or {}).get("example.com/note")
    expect(found == meta["example.com/note"], f"the server saw {found}")
    return "unknown keys reach the server"


async def check_capabilities(run):
    session = await run.open()
    result = await run.call(session, run.want(session, "whoami"))
    seen = sorted(result["structuredContent"]["clientCapabilities"])
    return ",".join(seen), seen


async def check_tool_error(run):
    session = await run.open()
    result = await run.call(session, run.want(session, "error"))
    expect(result.get("isError") is True, f"isError is {result.get('isError')}")
    return text_of(result)[:100]


async def check_unknown_tool(run):
    session = await run.open()
    return run.refusal(await refused(session.call(run.name("no_such_tool"), {}), "an unknown tool"))


async def check_progress(run):
    session = await run.open()
    wanted = run.want(session, "progress")
    steps = []

    async def on_progress(progress, _total, _message) -> None:
        steps.append(progress)

    await run.call(session, wanted, on_progress=on_progress)
    expect(steps == wanted["steps"], f"progress {steps}")
    return ",".join(f"{step:g}" for step in steps)


async def check_cancel(run):
    session = await run.open()
    wanted, cancelled = run.want(session, "slow"), run.options.profile.get("cancelled")
    arguments, mark = dict(wanted.get("arguments", {})), f"late-{random.random()}"
    if cancelled:
        arguments[cancelled["argument"]] = mark
    await session.call_and_cancel(run.name(wanted["tool"]), arguments, after_seconds=0.7)
    text = text_of(await run.canary(session, "after cancel"))
    expect("after cancel" in text, text)
    if not cancelled:
        return "the session works after it"
    while mark not in (await run.call(session, cancelled))["structuredContent"][cancelled["list"]]:
        await anyio.sleep(POKE_SECONDS)
    return "the server stopped; the session works after it"


async def check_reconnection(run):
    """The server ends the connection before the answer; the client has to come back for it."""
    session = await run.open()
    wanted = run.want(session, "reconnection")
    text = text_of(await run.call(session, wanted))
    expect(wanted["contains"] in text, text)
    return text


async def check_concurrent(run):
    session = await run.open()
    canaries = [f"canary-{n}-{random.random()};" for n in range(CONCURRENT_CALLS)]
    texts = {}

    async def one(canary) -> None:
        texts[canary] = text_of(await run.canary(session, canary))

    async with anyio.create_task_group() as tasks:
        for canary in canaries:
            tasks.start_soon(one, canary)
    wrong = [canary for canary in canaries if canary not in texts[canary]]
    expect(not wrong, f"{len(wrong)} calls got another's answer")
    return f"{len(texts)} answers"


async def check_large(run):
    session = await run.open()
    pattern = 'line "quoted" \\ back\n\ttab, snow ☃ and 日本語; '
    large = pattern * (LARGE_BYTES // len(pattern.encode()) + 1)
    text = text_of(await run.canary(session, large))
    expect(large in text, f"{len(text)} characters came back of {len(large)}")
    return f"{len(text.encode())} bytes"


async def check_big(run):
    session = await run.open()
    wanted = run.want(session, "big")
    length = len(text_of(await run.call(session, wanted)))
    expect(length == wanted["characters"], f"{length} characters")
    return f"{length} characters"


async def check_elicitation(run, action):
    asked = []

    def elicit(params):
        asked.append(params)
        return {"action": action, "content": wanted["content"]} if action == "accept" else {"action": action}

    session = await run.open(elicit=elicit)
    wanted = run.want(session, "elicitation")
    text = text_of(await run.call(session, wanted))
    expect(len(asked) == 1, f"asked {len(asked)} times")
    expect(wanted["accepted" if action == "accept" else "declined"] in text, text)
    return asked[0]["message"], [digest(asked[0]["requestedSchema"])]


async def check_url_elicitation(run, action):
    asked = []

    def elicit(params):
        asked.append(params)
        return {"action": action}

    session = await run.open(elicit=elicit)
    wanted = run.want(session, "elicitation_url")
    text = text_of(await run.call(session, wanted))
    expect(len(asked) == 1, f"asked {len(asked)} times")
    expect(asked[0].get("mode") == "url" and asked[0]["url"] == wanted["url"], f"{asked[0]}")
    expect(wanted["accepted" if action == "accept" else "declined"] in text, text)
    return asked[0]["url"]


async def check_url_required(run):
    session = await run.open()
    error = await refused(run.call(session, run.want(session, "elicitation_required")), "the call")
    sent = getattr(error, "error", None)
    expect(sent and sent.code == -32042, explain(error))
    expect(sent.data["elicitations"][0]["mode"] == "url", f"data {sent.data}")
    return explain(error)


def sampled(text: str) -> dict:
    return {"role": "assistant", "model": "test-model", "content": {"type": "text", "text": text}}


async def check_sampling(run):
    asked = []

    def sample(params):
        asked.append(params)
        return sampled("sampled-answer")

    session = await run.open(sample=sample)
    text = text_of(await run.call(session, run.want(session, "sampling")))
    expect(len(asked) == 1, f"asked {len(asked)} times")
    expect("sampled-answer" in text, text)
    return f"{len(asked[0]['messages'])} message, {asked[0]['maxTokens']} tokens"


async def check_sampling_two(run):
    run.needs("sampling")
    names = ["first-client", "second-client"]
    sessions = [await run.open(own=True, sample=lambda _params, name=name: sampled(name)) for name in names]
    texts = {}

    async def one(name, session) -> None:
        texts[name] = text_of(await run.call(session, run.want(session, "sampling")))

    async with anyio.create_task_group() as tasks:
        for name, session in zip(names, sessions, strict=True):
            tasks.start_soon(one, name, session)
    expect(all(name in texts[name] for name in names), f"{texts}")
    return "each client was asked for its own call"


FORM = {"name": "Ada", "color": "red", "ok": True, "context": "sunny"}


def fill(params: dict) -> dict:
    asked = params["requestedSchema"]["properties"]
    return {"action": "accept", "content": {key: FORM[key] for key in asked if key in FORM}}


# Answers whatever a server may ask for.
EVERY_ANSWER = {
    "elicit": fill,
    "sample": lambda _params: sampled("sampled-answer"),
    "roots": lambda: [{"uri": "file:///home/user/first"}],
}


async def check_input(run, kind):
    session = await run.open(**EVERY_ANSWER)
    wanted = run.want(session, "inputs")[kind]
    text = text_of(await run.call(session, wanted))
    expect(wanted["contains"] in text, text)
    return text


async def check_prompt_input(run):
    session = await run.open(**EVERY_ANSWER)
    wanted = run.want(session, "prompt_input")
    messages = (await session.prompt(run.name(wanted["name"]), {}))["messages"]
    text = "\n".join(message["content"]["text"] for message in messages)
    expect(wanted["contains"] in text, text)
    return text


class Roots:
    """A client's one root, which notes when it is asked for."""

    def __init__(self, current: str) -> None:
        self.current = current
        self.asked = 0

    def answer(self) -> list[dict]:
        self.asked += 1
        return [{"uri": self.current}]


async def until_roots(run, session, roots: Roots) -> None:
    """Calls the roots tool until it names the current root. server-everything asks for the roots by itself
    soon after the session began, and where its stream was not open yet when the tool asked, that call would
    never end: so first wait."""
    with anyio.move_on_after(OWN_REQUEST_SECONDS):
        while not roots.asked:
            await anyio.sleep(0.05)
    while roots.current not in text_of(await run.call(session, run.want(session, "roots"))):
        await anyio.sleep(POKE_SECONDS)


async def check_roots(run):
    run.needs("roots")
    roots = Roots("file:///home/user/first")
    session = await run.open(own=True, alone=True, roots=roots.answer)
    await until_roots(run, session, roots)
    return f"asked {roots.asked} times"


async def check_roots_changed(run):
    run.needs("roots")
    roots = Roots("file:///home/user/first")
    session = await run.open(own=True, alone=True, roots=roots.answer)
    run.legacy_only(session)
    await until_roots(run, session, roots)
    roots.current = "file:///home/user/second"
    await session.roots_changed()
    await until_roots(run, session, roots)
    return "the server asked again"


async def check_read(run, key):
    session = await run.open()
    wanted = run.want(session, key)
    found = (await session.read(wanted["uri"]))["contents"][0]
    expect(found["uri"] == wanted["uri"], f"uri {found['uri']}")
    body = found["text"] if "text" in found else base64.b64decode(found["blob"]).decode(errors="replace")
    expect(body and wanted.get("contains", "") in body, body[:200])
    return f"{found.get('mimeType')}, {len(body)} characters"


async def check_unknown_resource(run):
    session = await run.open()
    uri = run.want(session, "resource_unknown")["uri"]
    return run.refusal(await refused(session.read(uri), "an unknown resource"))


async def check_subscription(run):
    session = await run.open()
    wanted = run.want(session, "subscription")
    async with session.watch(uri=wanted["uri"]):
        updated = await run.until(session, "updated", lambda _n: run.call(session, wanted["trigger"]))
    expect(updated == wanted["uri"], f"update of {updated}")
    return updated


async def check_prompt(run):
    session = await run.open()
    wanted = run.want(session, "prompt")
    messages = (await session.prompt(run.name(wanted["name"]), wanted["arguments"]))["messages"]
    text = "\n".join(message["content"]["text"] for message in messages)
    expect(wanted["contains"] in text, text)
    return text


async def check_prompt_resource(run):
    session = await run.open()
    wanted = run.want(session, "prompt_resource")
    messages = (await session.prompt(run.name(wanted["name"]), wanted["arguments"]))["messages"]
    types = [message["content"]["type"] for message in messages]
    expect(types == wanted["types"], f"types {types}")
    return ",".join(types), [
        it["content"]["resource"]["uri"] for it in messages if "resource" in it["content"]
    ]


async def check_unknown_prompt(run):
    session = await run.open()
    return run.refusal(await refused(session.prompt(run.name("no_such_prompt"), {}), "an unknown prompt"))


async def check_completion(run, kind):
    session = await run.open()
    wanted = run.want(session, "completions")[kind]
    if "prompt" in wanted:
        ref = {"type": "ref/prompt", "name": run.name(wanted["prompt"])}
    else:
        ref = {"type": "ref/resource", "uri": wanted["uri"]}
    found = (await session.complete(ref, wanted["argument"], wanted.get("context")))["completion"]
    expect(found["values"] == wanted.get("values", found["values"]), f"{found}")
    expect(len(found["values"]) == wanted.get("count", len(wanted.get("values", []))), f"{found}")
    return f"{len(found['values'])} values", found["values"]


async def check_logging(run):
    session = await run.open()
    wanted = run.want(session, "logging")
    await session.set_level("debug")
    message = await run.until(session, "log", lambda _n: run.call(session, wanted))
    return f"level {message['level']}"


async def check_log_levels(run):
    """The server writes one message of each level; those below the wanted one must not come."""
    session = await run.open()
    wanted = run.want(session, "log_levels")
    await session.set_level(wanted["level"])
    await run.call(session, wanted)
    await anyio.sleep(POKE_SECONDS)
    levels = [message["level"] for message in session.events.arrived("log")]
    expect(levels == wanted["levels"], f"levels {levels}")
    return ",".join(levels)


async def check_ping(run):
    session = await run.open()
    run.legacy_only(session)
    await session.ping()
    return "answered"


async def check_list_changed(run, name):
    session = await run.open()
    wanted = run.want(session, "list_changed").get(name)
    if not wanted:
        raise Skip(f"the server profile has nothing which changes the {name}")

    async def change(n) -> None:
        arguments = json.loads(json.dumps(wanted.get("arguments", {})).replace("{n}", str(n)))
        await run.call(session, {"tool": wanted["tool"], "arguments": arguments})

    async with session.watch(changes_of=name):
        await run.until(session, name, change)
        if not (toggled := wanted.get("toggles")):
            return "notified"
        while True:
            # Two that change it in step, each upon the other's notification, undo what the other did.
            await anyio.sleep(POKE_SECONDS * random.random())
            before = await names_of(run, session, name)
            arrived = len(session.events.arrived(name))
            await change(0)
            await session.events.wait(name, POKE_SECONDS, arrived)
            if before ^ await names_of(run, session, name) == {toggled}:
                return "notified, and the list changed"


async def names_of(run, session, kind) -> set[str]:
    return {item["name"] for item in run.plain(await session.list(kind))}


async def check_close(run):
    if run.options.program:
        raise Skip("a program has no session to end")
    session = await run.open(own=True)
    await session.list("tools")
    session_id = session.session_id()
    # Leaving the SDK's context ends the session on the server too.
    await run.stack.aclose()
    if not session_id:
        return "no session id was given"
    headers = {
        **bearer(run.options.keys, 0),
        "content-type": "application/json",
        "accept": "application/json, text/event-stream",
        "mcp-session-id": session_id,
        "mcp-protocol-version": session.version,
    }
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "ping"}).encode()
    request = urllib.request.Request(run.options.url, data=body, headers=headers)
    status = await anyio.to_thread.run_sync(status_of, request)
    expect(400 <= status < 500, f"the ended session was answered by {status}")
    return f"the ended session is answered by {status}"


def status_of(request) -> int:
    try:
        with urllib.request.urlopen(request, timeout=5) as response:
            return response.status
    except urllib.error.HTTPError as error:
        return error.code


async def check_second(run):
    run.needs("canary")
    first = await run.open(own=True)
    await run.canary(first, "first")
    await run.stack.aclose()
    second = await run.open(own=True)
    text = text_of(await run.canary(second, "second"))
    expect("second" in text, text)
    return text
