"""The checks of what has to come through as it was sent; same.mjs has the same under the same names. Their values are
JSON texts, keys in the order in which they came, and run compares them with those of the same client directly."""

import json
import re
from functools import partial

from harness import Skip, explain

# What a list is called, and what announces it, by its method.
LISTS = {
    "tools/list": ("tools", "tools"),
    "prompts/list": ("prompts", "prompts"),
    "resources/list": ("resources", "resources"),
    "resources/templates/list": ("resourceTemplates", "resources"),
}

# Pages a server may have; one that names a next page for ever is not asked for ever.
PAGES_MAX = 100


def same_checks(profile: dict):
    yield "server", check_server
    yield "capabilities", check_capabilities
    for method in LISTS:
        yield f"{method} as sent", partial(check_list, method=method)
    for label in profile.get("steps", {}):
        yield f"result {label}", partial(check_step, label=label)


def text(value) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


async def check_server(run):
    """What the server says of itself. A gateway in front of several servers says something of its own."""
    session = await run.open()
    value = list(paths({"serverInfo": session.server_info, "instructions": session.instructions}, ""))
    return f"{len(value)} facts", None if run.options.prefix else value


async def check_capabilities(run):
    value = list(paths((await run.open()).capabilities, ""))
    return f"{len(value)} capabilities", value


def paths(value, at: str):
    """Each object and each value in it that is not false, with the way to it."""
    if not isinstance(value, dict):
        if value is not None and value is not False:
            yield f"{at}={text(value)}"
    else:
        if at:
            yield at
        for key, item in value.items():
            yield from paths(item, f"{at}.{key}" if at else key)


async def check_list(run, method: str):
    session = await run.open()
    field, capability = LISTS[method]
    if session.capabilities.get(capability) is None:
        raise Skip(f"the server has no {capability}")
    items, cursor, pages = [], None, 0
    while pages == 0 or (cursor is not None and pages < PAGES_MAX):
        page = await session.raw(method, {} if cursor is None else {"cursor": cursor})
        items += page[field]
        cursor = page.get("nextCursor")
        pages += 1
    if field in ("tools", "prompts"):
        prefix = run.options.prefix
        ours = (item for item in items if item["name"].startswith(prefix))
        items = [{**item, "name": item["name"].removeprefix(prefix)} for item in ours]
    return f"{len(items)} on {pages} pages", [text(item) for item in items]


async def to_its_end(session, method: str, params: dict) -> dict:
    """One request. A server that asks for the roots once, outside of any, asks a client of the Modern era by the next."""
    result = await session.raw(method, params)
    while result.get("resultType") == "input_required":
        asked = result["inputRequests"]
        if any(request["method"] != "roots/list" for request in asked.values()):
            break
        answers = {key: {"roots": []} for key in asked}
        again = {**params, "inputResponses": answers, "requestState": result["requestState"]}
        result = await session.raw(method, again)
    return result


async def check_step(run, label: str):
    """The whole result of one request, or the error; what may be another each time is masked."""
    session = await run.open()
    step = run.want(session, "steps")[label]
    params = step["params"]
    if step["method"] in ("tools/call", "prompts/get"):
        params = {**params, "name": run.name(params["name"])}
    try:
        value = text(await to_its_end(session, step["method"], params))
    except Exception as error:
        if not hasattr(error, "error"):
            raise
        value = f"error {explain(error)}"
    for pattern in step.get("mask", []):
        value = re.sub(pattern, "#", value)
    return value[:100], [value]
