"""A client of metamcp's framed stream (docs/FRAMES.md), of the standard library alone.

    METAMCP_KEY=mcp_... python3 framed.py http://127.0.0.1:12009/api/v1/mcp/stream [--lines]

One thread reads what comes, any thread may ask: `request` gives a Future.
"""

import itertools
import json
import os
import socket
import ssl
import struct
import sys
import threading
from concurrent.futures import Future
from urllib.parse import urlsplit

HEADER = struct.Struct("<4sIIII")  # magic, version, flags, method, length
ANSWER, LAST = 1, 2


class StreamEnded(Exception):
    """The gateway ended the stream; the text says why."""


class RpcError(Exception):
    """The answer to a request is an error."""


class FramedStream:
    def __init__(self, url, key=None, lines=False, on_request=None, on_notification=None):
        """`on_request` answers what servers ask: it gets the message and gives the result."""
        at = urlsplit(url)
        self.lines = lines
        self.on_request = on_request
        self.on_notification = on_notification or (lambda message: None)
        self.ids = itertools.count(1)
        self.waiting = {}
        self.ended = None
        self.lock = threading.Lock()
        port = at.port or (443 if at.scheme == "https" else 80)
        self.socket = socket.create_connection((at.hostname, port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if at.scheme == "https":
            self.socket = ssl.create_default_context().wrap_socket(self.socket, server_hostname=at.hostname)
        media_type = "application/x-ndjson" if lines else "application/vnd.metamcp.frames"
        head = [
            f"POST {at.path} HTTP/1.1",
            f"Host: {at.netloc}",
            f"Content-Type: {media_type}",
            "Transfer-Encoding: chunked",
        ]
        if key:
            head.append(f"Authorization: Bearer {key}")
        self.socket.sendall("\r\n".join(head + ["", ""]).encode())
        self.file = self.socket.makefile("rb")
        status = self.file.readline().decode().strip()
        headers = dict(line.lower().split(": ", 1) for line in iter(self._line, ""))
        if status.split(" ")[1] != "200":
            raise StreamEnded(f"{status}: {self.file.read(int(headers.get('content-length', 0))).decode()}")
        threading.Thread(target=self._read, daemon=True).start()

    def request(self, method, params=None):
        """Sends a request; the Future gets its result."""
        future, id = Future(), next(self.ids)
        with self.lock:
            if self.ended:
                raise self.ended
            self.waiting[id] = future
        self._send({"jsonrpc": "2.0", "id": id, "method": method, "params": params or {}})
        return future

    def notify(self, method, params=None):
        self._send({"jsonrpc": "2.0", "method": method, "params": params or {}})

    def close(self):
        """No more requests: what is under way is answered, then the stream ends."""
        with self.lock:
            self.socket.sendall(b"0\r\n\r\n")

    def _send(self, message):
        payload = json.dumps(message, separators=(",", ":")).encode()
        if self.lines:
            payload += b"\n"
        else:
            flags = 0 if "method" in message else ANSWER
            payload = HEADER.pack(b"MCPF", 1, flags, 0, len(payload)) + payload
        with self.lock:
            self.socket.sendall(b"%x\r\n%s\r\n" % (len(payload), payload))

    def _line(self):
        return self.file.readline().decode().rstrip("\r\n")

    def _bytes(self):
        """The response's body, chunk by chunk."""
        while size := int(self._line(), 16):
            yield self.file.read(size)
            self.file.read(2)

    def _messages(self):
        """The messages in it; those without content keep the connection alive."""
        held = b""
        for chunk in self._bytes():
            held += chunk
            if self.lines:
                *whole, held = held.split(b"\n")
                yield from (line for line in whole if line)
                continue
            at = 0
            while len(held) - at >= HEADER.size:
                magic, version, _flags, _method, length = HEADER.unpack_from(held, at)
                if (magic, version) != (b"MCPF", 1):
                    raise StreamEnded("what came is no frame")
                if len(held) - at - HEADER.size < length:
                    break
                if length:
                    yield held[at + HEADER.size : at + HEADER.size + length]
                at += HEADER.size + length
            held = held[at:]

    def _read(self):
        why = StreamEnded("the stream ended")
        try:
            for payload in self._messages():
                message = json.loads(payload)
                if "method" not in message:
                    why = self._answered(message) or why
                elif "id" not in message:
                    self.on_notification(message)
                else:
                    self._asked(message)
        except (OSError, ValueError, StreamEnded) as error:
            why = error
        with self.lock:
            self.ended, left = why, list(self.waiting.values())
            self.waiting.clear()
        for future in left:
            future.set_exception(why)

    def _answered(self, message):
        with self.lock:
            future = self.waiting.pop(message.get("id"), None)
        error = message.get("error")
        if future and error:
            future.set_exception(RpcError(error))
        elif future:
            future.set_result(message["result"])
        elif error and (error.get("data") or {}).get("last"):
            return StreamEnded(error["message"])
        elif error:
            print(f"of no request known here: {error}", file=sys.stderr)
        return None

    def _asked(self, message):
        answer = {"jsonrpc": "2.0", "id": message["id"]}
        if self.on_request:
            answer["result"] = self.on_request(message)
        else:
            answer["error"] = {"code": -32601, "message": "not done here"}
        self._send(answer)


def main():
    stream = FramedStream(sys.argv[1], os.environ.get("METAMCP_KEY"), lines="--lines" in sys.argv[2:])
    client = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "framed.py", "version": "1"}}
    server = stream.request("initialize", client).result(30)["serverInfo"]
    stream.notify("notifications/initialized")
    tools = stream.request("tools/list").result(30)["tools"]
    pings = [stream.request("ping") for _ in range(1000)]
    assert all(ping.result(30) == {} for ping in pings)
    echo = next(tool["name"] for tool in tools if tool["name"].endswith("echo"))
    calls = [stream.request("tools/call", {"name": echo, "arguments": {"text": f"call {n}"}}) for n in range(100)]
    for n, call in enumerate(calls):
        assert f"call {n}" in json.dumps(call.result(30)), n
    stream.close()
    print(f"{server['name']}: {len(tools)} tools, {len(pings)} pings, {len(calls)} calls of {echo}")


if __name__ == "__main__":
    main()
