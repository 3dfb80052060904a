"""Single exchanges with full validation of each response.

The load repeats the same messages. The response that it compares with is validated here first.
"""

import dataclasses
import json
import pathlib
import socket
import time

import harness
from harness import START_SECONDS_MAX

MODERN, LEGACY = "2026-07-28", "2025-11-25"
# Has the same width as the ids of `session.lua`.
CHECKED_ID = 100000000000000
# Timeout of one response.
RESPONSE_SECONDS_MAX = 30
# A busy machine may delay events that are passed on immediately, but cannot separate events that are held back.
APART_ATTEMPTS = 3
# Bytes of a wrong response that an error quotes.
QUOTED_BYTES = 200
CLIENT = {"name": "compare", "version": "1.0"}


@dataclasses.dataclass(frozen=True)
class Target(harness.Target):
    """A server that the load is sent to. The stub itself has no process."""

    # The revision of the messages.
    revision: str = MODERN
    # The name of the tool `echo`.
    tool: str = "echo"
    # The value for `Authorization: Bearer`; None: no credential.
    credential: str | None = None
    # The session id of the Legacy era.
    session: str | None = None
    # Whether a static file is requested instead of MCP messages.
    is_static: bool = False
    # Whether the target has sessions in the Legacy era.
    has_sessions: bool = True
    # Whether lists have a stable order.
    is_ordered: bool = True


@dataclasses.dataclass(frozen=True)
class CallShape:
    """A request and the shape of its response."""

    method: str = "tools/call"
    # Padding of the argument.
    request_bytes: int = 0
    # The least size of the response body.
    answer_bytes: int = 0
    # Progress notifications before the response.
    events: int = 0
    # Tools in a list.
    tools: int = 0


@dataclasses.dataclass(frozen=True)
class Response:
    status: int
    headers: dict
    body: bytes
    # Bytes with head and framing.
    size: int

    def messages(self):
        """The JSON messages: a single one, or one per event."""
        if "event-stream" not in self.headers.get("content-type", ""):
            return [json.loads(self.body)]
        lines = self.body.decode().splitlines()
        return [json.loads(line.removeprefix("data:")) for line in lines if line.startswith("data:") and line[5:].strip()]


def message(method, params=None, number=None):
    fields = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
    return json.dumps({name: value for name, value in fields.items() if value is not None}, separators=(",", ":"))


def build_message(target, shape, number):
    """Returns the request with the given number."""
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


def build_headers(target, shape):
    """Returns the headers of a request."""
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
    """Sends one request on a new connection. Returns the response."""
    with socket.create_connection(("127.0.0.1", target.port), timeout=RESPONSE_SECONDS_MAX) as connection:
        connection.sendall(request(target, fields, body, verb))
        with connection.makefile("rb") as file:
            return read_response(file)


def request(target, fields, body, verb="POST"):
    lines = [f"{verb} {target.path} HTTP/1.1", f"Host: 127.0.0.1:{target.port}", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in fields.items()]
    return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()


def read_response(file):
    size = 0

    def line():
        nonlocal size
        read = file.readline()
        if not read:
            raise ConnectionError("the connection ended within a response")
        size += len(read)
        return read.decode().strip()

    def exactly(count):
        nonlocal size
        read = file.read(count)
        if len(read) != count:
            raise ConnectionError("the connection ended within a response")
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
    return Response(status, headers, body, size)


def open_target(target):
    """Waits until the target responds, and opens a session in the Legacy era. Raises `WrongResponse` after a timeout."""
    deadline = time.monotonic() + START_SECONDS_MAX
    while True:
        try:
            return open_session(target) if target.revision == LEGACY else check_ready(target)
        except (OSError, ValueError) as error:
            if time.monotonic() > deadline:
                raise harness.WrongResponse(f"no response: {error}") from error
            time.sleep(0.1)


def check_ready(target):
    if target.is_static:
        return target
    response = exchange(target, build_headers(target, CallShape()), build_message(target, CallShape(), 1))
    if response.status != 200:
        raise ValueError(f"{response.status} {response.body[:QUOTED_BYTES]!r}")
    return target


def open_session(target):
    target = dataclasses.replace(target, session=None)
    params = {"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": CLIENT}
    response = exchange(target, build_headers(target, CallShape()), message("initialize", params, 1))
    session = response.headers.get("mcp-session-id")
    if response.status != 200 or not session and target.has_sessions:
        raise ValueError(f"no session was opened: {response.status} {response.body[:QUOTED_BYTES]!r}")
    target = dataclasses.replace(target, session=session)
    response = exchange(target, build_headers(target, CallShape()), message("notifications/initialized"))
    if response.status != 202:
        raise ValueError(f"the notification was refused: {response.status} {response.body[:QUOTED_BYTES]!r}")
    return target


def checked_exchange(target, shape, number=CHECKED_ID):
    """Sends one request and returns its response. Raises `WrongResponse` if it is not correct."""
    if target.is_static:
        return exchange(target, {}, "", "GET")
    try:
        response = exchange(target, build_headers(target, shape), build_message(target, shape, number))
        reason = find_error(response, shape, number)
    except (OSError, ValueError, KeyError) as error:
        raise harness.WrongResponse(f"unreadable response: {error}") from error
    if reason:
        raise harness.WrongResponse(f"{reason}: {response.status} {response.body[:QUOTED_BYTES]!r}")
    return response


def find_error(response, shape, number):
    """Returns what is wrong with a response, or None."""
    if response.status != 200:
        return "the status is wrong"
    *events, last = response.messages()
    if last.get("id") != number or "result" not in last:
        return "it is not the response to the request"
    if [event.get("params", {}).get("progress") for event in events] != list(range(1, shape.events + 1)):
        return "progress notifications are missing"
    if any(event["params"]["progressToken"] != number for event in events):
        return "the progress token is wrong"
    if shape.method == "tools/list":
        return None if len(last["result"]["tools"]) == shape.tools else f"{len(last['result']['tools'])} tools"
    is_correct = last["result"]["content"][0]["text"].startswith(f"call {number}")
    return None if is_correct and len(response.body) >= shape.answer_bytes else "the text is wrong"


def requires_key(target, shape):
    """Whether the target refuses a request without a credential."""
    without = dataclasses.replace(target, credential=None)
    return exchange(without, build_headers(without, shape), build_message(without, shape, 1)).status == 401


def forwards_immediately(target, shape):
    """Whether most events that are sent separately arrive separately. A target that holds them back does less work."""
    return any(count_stream_reads(target, shape) > shape.events / 2 for _ in range(APART_ATTEMPTS))


def count_stream_reads(target, shape):
    """Counts the reads that a stream takes."""
    parts, end = 0, b""
    with socket.create_connection(("127.0.0.1", target.port), timeout=RESPONSE_SECONDS_MAX) as connection:
        connection.sendall(request(target, build_headers(target, shape), build_message(target, shape, CHECKED_ID)))
        while not end.endswith(b"0\r\n\r\n") and (part := connection.recv(1 << 16)):
            parts += 1
            end = (end + part)[-len(b"0\r\n\r\n") :]
    return parts


def write_inputs(folder, target, shape, response):
    """Writes the inputs of a wrk script to files, since an environment is too small for megabytes. Returns the environment."""
    texts = {
        "CALL_HEADERS": "\n".join(f"{name}: {value}" for name, value in build_headers(target, shape).items()),
        "CALL_BODY": "" if target.is_static else build_message(target, shape, CHECKED_ID),
        "CALL_ANSWER": response.body.decode(),
    }
    for name, text in texts.items():
        pathlib.Path(folder / name).write_text(text)
    # A static file has no id.
    found = {"CALL_ID": "none" if target.is_static else str(CHECKED_ID)}
    found |= {} if target.is_ordered or shape.method == "tools/call" else {"CALL_ANY_ORDER": "1"}
    return found | {f"{name}_FILE": str(folder / name) for name in texts}
