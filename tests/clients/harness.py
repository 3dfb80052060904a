"""What the two Python clients share: the command line, the sessions of a check, the report.

A client program calls `main(connect, checks)`. `connect(options, answers, events)` is an async context
manager which opens a session with its SDK and yields an object with the methods which the checks use; results
are dicts in wire spelling. `options.program` is what the SDK has to start where there is no URL. `answers` holds
the replies to the server's requests (elicit, sample, roots), `events` takes (name, payload) of 'log', 'updated',
'tools', 'prompts', 'resources' when such a notification arrives. `options.sse` says that the URL is of the transport
of 2024-11-05. One process tries one target (`--target`) after the other. The checks of a target share a session, and so
a program, but for those that need their own, which are opened with the target's keys in turn; after a check that failed they get another, and it is tried once more
there: some SDKs lose a notification now and then that comes just before the answer.
"""

import argparse
import contextlib
import hashlib
import itertools
import json
import logging
import pathlib
import sys
import time
import warnings

import anyio

CHECK_SECONDS = 40

# The same for the first, which a server is started for, or several behind a gateway.
OPEN_SECONDS = 60

POKE_SECONDS = 0.4

PROFILES = pathlib.Path(__file__).with_name("profiles.json")


class Skip(Exception):
    """The check does not apply to this server or era."""


class Failed(Exception):
    """What came back is not what was expected."""


def read_options() -> list[argparse.Namespace]:
    """For each target its own: `url` or `program`, `sse`, `prefix`, `keys`; and what they share."""
    profiles = PROFILES.read_text()
    parser = argparse.ArgumentParser()
    parser.add_argument("--target", type=json.loads, action="append", required=True, metavar="JSON")
    parser.add_argument("--place", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--profile", required=True, choices=json.loads(profiles))
    parser.add_argument("--era", choices=["auto", "legacy", "modern"], default="auto")
    shared = parser.parse_args()
    for place in shared.place:
        name, _, value = place.partition("=")
        profiles = profiles.replace(f"{{{name}}}", value)
    profile = json.loads(profiles)[shared.profile]
    known = {"url": None, "program": None, "sse": False, "prefix": "", "keys": []}
    return [
        argparse.Namespace(**{**known, **target, "era": shared.era, "profile": profile})
        for target in shared.target
    ]


def main(connect, checks) -> None:
    """Runs the checks against each target in sessions which `connect` opens, prints a line for each and ends the
    process."""
    warnings.simplefilter("ignore")
    logging.disable()
    targets = enumerate(read_options())
    failed = [anyio.run(run_checks, connect, checks, options, target) for target, options in targets]
    sys.exit(1 if any(failed) else 0)


async def run_checks(connect, checks, options, target: int) -> bool:
    """Whether one of them failed."""
    failed = False
    opened = True
    async with anyio.create_task_group() as tasks:
        shared = Shared(connect, options, tasks)
        for name, body in checks(options.profile):
            if opened:
                line = await run_check(connect, options, shared, name, body)
                if not (line["ok"] or line.get("skip")):
                    shared.close()
                    line = {**await run_check(connect, options, shared, name, body), "first": line["detail"]}
            else:
                line = {"check": name, "ok": False, "detail": "not tried: no session"}
            if name == "open":
                opened = line["ok"]
            failed = failed or not (line["ok"] or line.get("skip"))
            print(json.dumps({"target": target, **line}), flush=True)
        shared.close()
    return failed


async def run_check(connect, options, shared, name, body) -> dict:
    started = time.monotonic()
    try:
        with anyio.fail_after(OPEN_SECONDS if name == "open" else CHECK_SECONDS):
            async with contextlib.AsyncExitStack() as stack:
                result = await body(Run(connect, options, shared, stack))
    except BaseException as error:
        reason = innermost(error)
        if isinstance(reason, (KeyboardInterrupt, SystemExit)):
            raise
        if isinstance(reason, Skip):
            return {"check": name, "ok": False, "skip": True, "detail": str(reason)}
        line = {"check": name, "ok": False, "detail": explain(reason)}
    else:
        detail, value = result if isinstance(result, tuple) else (result, None)
        line = {"check": name, "ok": True, "detail": detail}
        if value is not None:
            line["value"] = value
    line["ms"] = round((time.monotonic() - started) * 1000)
    return line


def innermost(error: BaseException) -> BaseException:
    """The first error inside task groups' wrappings."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


class Events:
    """Notifications of one session, to be waited for by name."""

    def __init__(self) -> None:
        self.seen = []
        self.more = anyio.Event()

    def __call__(self, name, payload=None) -> None:
        self.seen.append((name, payload))
        self.more.set()
        self.more = anyio.Event()

    def arrived(self, name) -> list:
        return [payload for seen, payload in self.seen if seen == name]

    async def wait(self, name, seconds, after=0) -> bool:
        """Waits until more than `after` of them arrived; False if they do not within the time."""
        with anyio.move_on_after(seconds):
            while len(self.arrived(name)) <= after:
                await self.more.wait()
        return len(self.arrived(name)) > after


class Shared:
    """The session that checks share, in a task of its own: it outlives the check that opened it."""

    def __init__(self, connect, options, tasks) -> None:
        self.connect = connect
        self.options = options
        self.tasks = tasks
        self.session = None

    async def open(self, answers: dict):
        if self.session is None:
            self.answers, self.events, self.done = {}, Events(), anyio.Event()
            self.session = await self.tasks.start(self.hold)
            self.session.events = self.events
        self.answers.clear()
        self.answers.update(answers)
        self.events.seen.clear()
        return self.session

    async def hold(self, *, task_status) -> None:
        done, started = self.done, False
        try:
            options = argparse.Namespace(**{**vars(self.options), "headers": bearer(self.options.keys, 0)})
            async with self.connect(options, self.answers, self.events) as session:
                task_status.started(session)
                started = True
                await done.wait()
        except Exception:
            # A session that breaks later is noticed by the next check, which opens another.
            if not started:
                raise

    def close(self) -> None:
        if self.session is not None:
            self.session = None
            self.done.set()


class Run:
    """One check: the sessions it opens, and what the profile says for the era they speak."""

    def __init__(self, connect, options, shared, stack) -> None:
        self.connect = connect
        self.options = options
        self.shared = shared
        self.stack = stack
        # Sessions of its own so far.
        self.opened = 0

    async def open(self, *, own=False, alone=False, **answers):
        """A session which answers the server so: the shared one, unless the check needs its own; `alone`: with the last
        key, which no other check uses."""
        if not own:
            return await self.shared.open(answers)
        events = Events()
        keys = self.options.keys
        headers = bearer(keys[-1:], 0) if alone else bearer(keys[:-1] or keys, self.opened)
        options = argparse.Namespace(**{**vars(self.options), "headers": headers})
        self.opened += not alone
        session = await self.stack.enter_async_context(self.connect(options, answers, events))
        session.events = events
        return session

    def want(self, session, key):
        """What the profile has under `key` for this session's era; skips the check where it has nothing."""
        profile = self.options.profile
        found = profile.get("modern", {}).get(key, profile.get(key)) if session.era == "modern" else profile.get(key)
        if not found:
            raise Skip(f"the server profile has no {key} ({session.era})")
        return found

    def needs(self, key) -> None:
        """Skips the check where the profile has nothing under `key` in any era, before there is a session."""
        if not self.options.profile.get(key):
            raise Skip(f"the server profile has no {key}")

    def refusal(self, error):
        """A refusal: the server's own, which has to come through, except where a gateway answers in its place."""
        return explain(error), None if self.options.prefix else [explain(error)]

    def legacy_only(self, session) -> None:
        if session.era != "legacy":
            raise Skip("not part of 2026-07-28")

    def name(self, plain: str) -> str:
        return self.options.prefix + plain

    def plain(self, items: list[dict]) -> list[dict]:
        """The items whose names begin with the prefix, without it."""
        prefix = self.options.prefix
        ours = [item for item in items if item["name"].startswith(prefix)]
        return sorted(
            ({**item, "name": item["name"].removeprefix(prefix)} for item in ours), key=lambda it: it["name"]
        )

    async def call(self, session, wanted: dict, **options) -> dict:
        return await session.call(self.name(wanted["tool"]), wanted.get("arguments", {}), **options)

    async def canary(self, session, text: str) -> dict:
        wanted = self.want(session, "canary")
        arguments = {**wanted.get("arguments", {}), wanted["argument"]: text}
        return await self.call(session, {"tool": wanted["tool"], "arguments": arguments})

    async def until(self, session, event, act):
        """Calls `act(n)` until `event` arrives: the server may have no stream to send it on at first."""
        before = len(session.events.arrived(event))
        for n in itertools.count():
            await act(n)
            if await session.events.wait(event, POKE_SECONDS, before):
                return session.events.arrived(event)[before]


def bearer(keys: list[str], session: int) -> dict[str, str]:
    """What a session is opened with: those of one check have the keys in turn."""
    return {"Authorization": f"Bearer {keys[session % len(keys)]}"} if keys else {}


def text_of(result: dict) -> str:
    return "\n".join(block.get("text", "") for block in result.get("content", []))


def explain(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "no result in time"
    code = getattr(getattr(error, "error", None), "code", type(error).__name__)
    return f"{code} {error}"[:300]


def digest(value) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def expect(holds, detail) -> None:
    if not holds:
        raise Failed(detail)


async def refused(call, what: str) -> BaseException:
    """The JSON-RPC error, or the error result, by which the server refused."""
    try:
        result = await call
    except Exception as error:
        if hasattr(error, "error"):
            return error
        raise
    expect(result.get("isError"), f"{what} was answered by {json.dumps(result)[:200]}")
    return Failed(text_of(result))
