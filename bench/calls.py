"""The messages that are sent and what has to come back: one exchange at a time, by hand, each answer looked at.

The load sends the same messages many times over; what it compares its answers with was checked here first.
"""

import dataclasses
import json
import pathlib
import socket
import time

import harness
from harness import START_SECONDS_MAX

MODERN, LEGACY = "2026-07-28", "2025-11-25"
# The same width as every id of `session.lua`.
CHECKED_ID = 100000000000000
# In seconds. A gateway that holds an answer back for longer does not answer.
ANSWER_SECONDS_MAX = 30
# A busy machine can hold up events that are passed on at once; nothing takes those apart that are not.
APART_ATTEMPTS = 3
# Of an answer that is wrong.
SAID_BYTES = 200
CLIENT = {"name": "compare", "version": "1.0"}


@dataclasses.dataclass(frozen=True)
class Target(harness.Target):
    """What the load is sent to; its process is None for the stub itself."""

    # The revision its messages are of.
    revision: str = MODERN
    # What `echo` is called here.
    tool: str = "echo"
    # What it is sent as `Authorization: Bearer`; None: it asks for nothing.
    credential: str | None = None
    # Of the older era.
    session: str | None = None
    # Instead of messages, this file is asked for.
    is_static: bool = False
    # Whether there are sessions in the older era.
    has_sessions: bool = True
    # Whether lists come in the same order each time.
    is_ordered: bool = True


@dataclasses.dataclass(frozen=True)
class Shape:
    """What is asked, and how the answer has to look."""

    method: str = "tools/call"
    # Of the argument, besides what tells one call from another.
    request_bytes: int = 0
    # At least, of the answer's body.
    answer_bytes: int = 0
    # Messages of progress before it.
    events: int = 0
    # Tools in the list.
    tools: int = 0


@dataclasses.dataclass(frozen=True)
class Answer:
    status: int
    headers: dict
    body: bytes
    # Head and framing included.
    size: int

    def messages(self):
        """The JSON in it: one, or one for each event."""
        if "event-stream" not in self.headers.get("content-type", ""):
            return [json.loads(self.body)]
        lines = self.body.decode().splitlines()
        return [json.loads(line.removeprefix("data:")) for line in lines if line.startswith("data:") and line[5:].strip()]


def message(method, params=None, number=None):
    fields = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
    return json.dumps({name: value for name, value in fields.items() if value is not None}, separators=(",", ":"))


def asked(target, shape, number):
    """The message of a number."""
    params = {}
    if shape.method == "tools/call":
        params = {"name": target.tool, "arguments": {"text": f"call {number}" + "x" * shape.request_bytes}}
    meta = {"progressToken": number} if shape.events else {}
    if target.revision == MODERN:
        meta |= {
            "io.modelcontextprotocol/protocolVersion": MODERN,
            "io.modelcontextprotocol/clientCapabilities": {},
            "io.modelcontextprotocol/clientInfo": CLIENT,
        }
    return message(shape.method, params | ({"_meta": meta} if meta else {}), number)


def head(target, shape):
    """The header fields of such a message."""
    fields = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
    if target.is_static:
        return {}
    if target.revision == MODERN:
        fields |= {"MCP-Protocol-Version": MODERN, "Mcp-Method": shape.method}
        fields |= {"Mcp-Name": target.tool} if shape.method == "tools/call" else {}
    elif target.session:
        fields |= {"MCP-Protocol-Version": LEGACY, "Mcp-Session-Id": target.session}
    elif not target.has_sessions:
        fields |= {"MCP-Protocol-Version": LEGACY}
    if target.credential:
        fields |= {"Authorization": f"Bearer {target.credential}"}
    return fields


def exchange(target, fields, body, verb="POST"):
    """Sends one request on a connection of its own; gives the answer."""
    with socket.create_connection(("127.0.0.1", target.port), timeout=ANSWER_SECONDS_MAX) as connection:
        connection.sendall(request(target, fields, body, verb))
        with connection.makefile("rb") as file:
            return read_answer(file)


def request(target, fields, body, verb="POST"):
    lines = [f"{verb} {target.path} HTTP/1.1", f"Host: 127.0.0.1:{target.port}", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in fields.items()]
    return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()


def read_answer(file):
    size = 0

    def line():
        nonlocal size
        read = file.readline()
        if not read:
            raise ConnectionError("the connection ended within an answer")
        size += len(read)
        return read.decode().strip()

    def exactly(count):
        nonlocal size
        read = file.read(count)
        if len(read) != count:
            raise ConnectionError("the connection ended within an answer")
        size += count
        return read

    status, headers, body = int(line().split(" ", 2)[1]), {}, b""
    while field := line():
        name, _, value = field.partition(":")
        headers[name.lower()] = value.strip()
    if headers.get("transfer-encoding") == "chunked":
        while count := int(line().partition(";")[0], 16):
            body += exactly(count)
            line()
        line()
    elif status != 204:
        body = exactly(int(headers["content-length"]))
    return Answer(status, headers, body, size)


def opened(target):
    """The target, with a session where its era has them, as soon as it answers; raises `Wrong` if it never does."""
    deadline = time.monotonic() + START_SECONDS_MAX
    while True:
        try:
            return with_session(target) if target.revision == LEGACY else ready(target)
        except (OSError, ValueError) as error:
            if time.monotonic() > deadline:
                raise harness.Wrong(f"it does not answer: {error}") from error
            time.sleep(0.1)


def ready(target):
    if target.is_static:
        return target
    answer = exchange(target, head(target, Shape()), asked(target, Shape(), 1))
    if answer.status != 200:
        raise ValueError(f"{answer.status} {answer.body[:SAID_BYTES]!r}")
    return target


def with_session(target):
    target = dataclasses.replace(target, session=None)
    params = {"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": CLIENT}
    answer = exchange(target, head(target, Shape()), message("initialize", params, 1))
    session = answer.headers.get("mcp-session-id")
    if answer.status != 200 or not session and target.has_sessions:
        raise ValueError(f"it opens no session: {answer.status} {answer.body[:SAID_BYTES]!r}")
    target = dataclasses.replace(target, session=session)
    answer = exchange(target, head(target, Shape()), message("notifications/initialized"))
    if answer.status != 202:
        raise ValueError(f"it takes no notification: {answer.status} {answer.body[:SAID_BYTES]!r}")
    return target


def checked(target, shape, number=CHECKED_ID):
    """The answer to the message of a number; raises `Wrong` when it is not right."""
    if target.is_static:
        return exchange(target, {}, "", "GET")
    try:
        answer = exchange(target, head(target, shape), asked(target, shape, number))
        reason = wrong(answer, shape, number)
    except (OSError, ValueError, KeyError) as error:
        raise harness.Wrong(f"no answer that can be read: {error}") from error
    if reason:
        raise harness.Wrong(f"{reason}: {answer.status} {answer.body[:SAID_BYTES]!r}")
    return answer


def wrong(answer, shape, number):
    """What is wrong with an answer; None: nothing."""
    if answer.status != 200:
        return "the status is wrong"
    *events, last = answer.messages()
    if last.get("id") != number or "result" not in last:
        return "it is not the answer"
    if [event.get("params", {}).get("progress") for event in events] != list(range(1, shape.events + 1)):
        return "the progress is not all there"
    if any(event["params"]["progressToken"] != number for event in events):
        return "the progress is another call's"
    if shape.method == "tools/list":
        return None if len(last["result"]["tools"]) == shape.tools else f"{len(last['result']['tools'])} tools"
    is_right = last["result"]["content"][0]["text"].startswith(f"call {number}")
    return None if is_right and len(answer.body) >= shape.answer_bytes else "the text is wrong"


def asks_for_key(target, shape):
    """Whether it refuses who has none."""
    without = dataclasses.replace(target, credential=None)
    return exchange(without, head(without, shape), asked(without, shape, 1)).status == 401


def passes_at_once(target, shape):
    """Whether most events of a stream that come apart also arrive apart: who holds them back does less work."""
    return any(reads_of_stream(target, shape) > shape.events / 2 for _ in range(APART_ATTEMPTS))


def reads_of_stream(target, shape):
    """In how many parts a stream arrives."""
    parts, end = 0, b""
    with socket.create_connection(("127.0.0.1", target.port), timeout=ANSWER_SECONDS_MAX) as connection:
        connection.sendall(request(target, head(target, shape), asked(target, shape, CHECKED_ID)))
        while not end.endswith(b"0\r\n\r\n") and (part := connection.recv(1 << 16)):
            parts += 1
            end = (end + part)[-len(b"0\r\n\r\n") :]
    return parts


def to_files(folder, target, shape, answer):
    """What a script of wrk needs, in files: an environment holds no megabytes. Gives their names as variables."""
    texts = {
        "CALL_HEADERS": "\n".join(f"{name}: {value}" for name, value in head(target, shape).items()),
        "CALL_BODY": "" if target.is_static else asked(target, shape, CHECKED_ID),
        "CALL_ANSWER": answer.body.decode(),
    }
    for name, text in texts.items():
        pathlib.Path(folder / name).write_text(text)
    # What is the same each time has no id in it.
    found = {"CALL_ID": "none" if target.is_static else str(CHECKED_ID)}
    found |= {} if target.is_ordered or shape.method == "tools/call" else {"CALL_ANY_ORDER": "1"}
    return found | {f"{name}_FILE": str(folder / name) for name in texts}
