"""A client for metamcp's framed stream (docs/FRAMES.md). Uses only the standard library.

    METAMCP_KEY=mcp_... python3 framed.py http://127.0.0.1:12009/api/v1/mcp/stream [--lines]

One thread reads the stream. Any thread may send requests: `request` returns a Future.
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
RESPONSE_FLAG, LAST_FLAG = 1, 2


class StreamEnded(Exception):
    """The gateway ended the stream; the text says why."""


class RpcError(Exception):
    """The response to a request is an error."""


class FramedStream:
    def __init__(self, url, key=None, lines=False, on_request=None, on_notification=None):
        """`on_request` handles requests from servers: it gets the message and returns the result."""
        parts = urlsplit(url)
        self.lines = lines
        self.on_request = on_request
        self.on_notification = on_notification or (lambda message: None)
        self.ids = itertools.count(1)
        self.pending = {}
        self.ended = None
        self.lock = threading.Lock()
        port = parts.port or (443 if parts.scheme == "https" else 80)
        self.socket = socket.create_connection((parts.hostname, port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if parts.scheme == "https":
            self.socket = ssl.create_default_context().wrap_socket(self.socket, server_hostname=parts.hostname)
        media_type = "application/x-ndjson" if lines else "application/vnd.metamcp.frames"
        head = [
            f"POST {parts.path} HTTP/1.1",
            f"Host: {parts.netloc}",
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
        """Sends a request. The Future receives its result."""
        future, id = Future(), next(self.ids)
        with self.lock:
            if self.ended:
                raise self.ended
            self.pending[id] = future
        self._send({"jsonrpc": "2.0", "id": id, "method": method, "params": params or {}})
        return future

    def notify(self, method, params=None):
        self._send({"jsonrpc": "2.0", "method": method, "params": params or {}})

    def close(self):
        """Ends the requests. The gateway responds to those in flight, then ends the stream."""
        with self.lock:
            self.socket.sendall(b"0\r\n\r\n")

    def _send(self, message):
        payload = json.dumps(message, separators=(",", ":")).encode()
        if self.lines:
            payload += b"\n"
        else:
            flags = 0 if "method" in message else RESPONSE_FLAG
            payload = HEADER.pack(b"MCPF", 1, flags, 0, len(payload)) + payload
        with self.lock:
            self.socket.sendall(b"%x\r\n%s\r\n" % (len(payload), payload))

    def _line(self):
        return self.file.readline().decode().rstrip("\r\n")

    def _bytes(self):
        """The body of the response, chunk by chunk."""
        while size := int(self._line(), 16):
            yield self.file.read(size)
            self.file.read(2)

    def _messages(self):
        """The messages of the stream. Empty ones keep the connection alive, and are skipped."""
        buffer = b""
        for chunk in self._bytes():
            buffer += chunk
            if self.lines:
                *lines, buffer = buffer.split(b"\n")
                yield from (line for line in lines if line)
                continue
            at = 0
            while len(buffer) - at >= HEADER.size:
                magic, version, _flags, _method, length = HEADER.unpack_from(buffer, at)
                if (magic, version) != (b"MCPF", 1):
                    raise StreamEnded("invalid frame")
                if len(buffer) - at - HEADER.size < length:
                    break
                if length:
                    yield buffer[at + HEADER.size : at + HEADER.size + length]
                at += HEADER.size + length
            buffer = buffer[at:]

    def _read(self):
        why = StreamEnded("the stream ended")
        try:
            for payload in self._messages():
                message = json.loads(payload)
                if "method" not in message:
                    why = self._handle_response(message) or why
                elif "id" not in message:
                    self.on_notification(message)
                else:
                    self._handle_request(message)
        except (OSError, ValueError, StreamEnded) as error:
            why = error
        with self.lock:
            self.ended, left = why, list(self.pending.values())
            self.pending.clear()
        for future in left:
            future.set_exception(why)

    def _handle_response(self, message):
        with self.lock:
            future = self.pending.pop(message.get("id"), None)
        error = message.get("error")
        if future and error:
            future.set_exception(RpcError(error))
        elif future:
            future.set_result(message["result"])
        elif error and (error.get("data") or {}).get("last"):
            return StreamEnded(error["message"])
        elif error:
            print(f"error without a known request: {error}", file=sys.stderr)
        return None

    def _handle_request(self, message):
        response = {"jsonrpc": "2.0", "id": message["id"]}
        if self.on_request:
            response["result"] = self.on_request(message)
        else:
            response["error"] = {"code": -32601, "message": "method not found"}
        self._send(response)


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
