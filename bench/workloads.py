"""The workloads of the comparison; each is a row of the table."""

import dataclasses
import http.client
import itertools
import sys
import time

import calls
import harness
from calls import CHECKED_ID, LEGACY, MODERN, CallShape

# Events per stream, and the delay between them in `stream-apart`.
EVENTS = 100
APART_MS = 5
# Tools per server in a list.
TOOLS = 20
# Requests of a session with one call.
SESSION_REQUESTS = 4
# A target with fewer responses per connection during the warm-up is measured for this many seconds.
RESPONSES_MIN, SLOW_SECONDS = 4, 6
# Each connection has a thread of the load, with a number of three digits in its ids.
CONNECTIONS_MAX = 999
# Run numbers of four digits, so that a response of one run is wrong in any other.
RUNS = itertools.count(1000)


@dataclasses.dataclass(frozen=True)
class Workload:
    name: str
    about: str
    # The slot that targets use for it, unless they have an entry with the workload's name.
    slot: str = "call"
    shape: CallShape = CallShape()
    # The response mode of the stub.
    mode: str = "bytes=0"
    # None: as given on the command line.
    connections: int | None = None
    # All requests are equal and responses are only counted, since a load that checks each one would be the bottleneck.
    is_fixed: bool = False
    # The least duration of a measurement in seconds.
    seconds_min: int = 1
    # Events must be forwarded one by one.
    is_apart: bool = False
    # Sessions are opened and closed.
    is_churn: bool = False
    # Requests per counted unit.
    requests: int = 1
    # The counted unit.
    unit: str = "call"


ALL = [
    Workload("small", "`tools/call` of the smallest size", is_fixed=True),
    Workload("64k", "answers of 64 KiB", shape=CallShape(answer_bytes=64 << 10), mode=f"bytes={64 << 10}"),
    Workload("1m", "answers of 1 MiB", shape=CallShape(answer_bytes=1 << 20), mode=f"bytes={1 << 20}", connections=8),
    Workload("1m-request", "requests of 1 MiB", shape=CallShape(request_bytes=1 << 20), connections=8),
    Workload(
        "stream",
        f"{EVENTS} events of progress and a result, all at once",
        "stream",
        CallShape(events=EVENTS),
        f"events={EVENTS}",
        connections=16,
        unit="stream",
    ),
    Workload(
        "stream-apart",
        f"the same, {APART_MS} ms apart",
        "stream",
        CallShape(events=EVENTS),
        f"events={EVENTS}&delay_ms={APART_MS}",
        connections=64,
        seconds_min=3,
        is_apart=True,
        unit="stream",
    ),
    Workload(
        "list",
        f"`tools/list` over 10 servers with {TOOLS} tools each; nginx: a file of that size",
        "list",
        CallShape("tools/list", tools=10 * TOOLS),
        connections=8,
        unit="list",
    ),
    Workload(
        "churn",
        "sessions: `initialize`, `initialized`, one call, DELETE",
        "churn",
        connections=16,
        is_churn=True,
        requests=SESSION_REQUESTS,
        unit="session",
    ),
    Workload("one", "one connection, one call at a time", connections=1),
    Workload("observed", "the small call, with metrics, without, and with a record of each call", "observed", is_fixed=True),
]
BY_NAME = {workload.name: workload for workload in ALL}


def target_of(workload, targets):
    """The target for a workload, or None if it is not supported."""
    return targets.get(workload.name, targets.get(workload.slot))


def switch(port, mode):
    """Sets the response mode of the stub as soon as it listens."""
    deadline = time.monotonic() + harness.START_SECONDS_MAX
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=harness.START_SECONDS_MAX)
        try:
            connection.request("PUT", f"/mode?{mode}")
            if connection.getresponse().status != 200:
                sys.exit(f"the stub does not support {mode}")
            return
        except OSError as error:
            if time.monotonic() > deadline:
                sys.exit(f"the stub does not listen: {error}")
            time.sleep(0.1)
        finally:
            connection.close()


class Load:
    """One workload on one target with a validated response."""

    def __init__(self, workload, target, folder):
        """Raises `WrongResponse` if the target does not handle the workload correctly."""
        self.workload, self.target = workload, calls.open_target(target)
        # In a session, every call needs a unique id.
        self.is_fixed = workload.is_fixed and target.revision == MODERN
        self.is_warm = self.is_slow = False
        response = calls.checked_exchange(self.target, workload.shape)
        if workload.is_apart and not calls.forwards_immediately(self.target, workload.shape):
            raise harness.WrongResponse("it delays events")
        # The load checks that responses differ only in the id.
        self.size = response.size
        self.folder = folder / f"{workload.name}-{target.name}".replace("/", "-").replace(" ", "-")
        self.folder.mkdir()
        # A workload that opens sessions starts without one.
        client = dataclasses.replace(self.target, session=None) if workload.is_churn else self.target
        self.environment = calls.write_inputs(self.folder, client, workload.shape, response)
        if target.credential and not calls.requires_key(self.target, workload.shape):
            raise harness.WrongResponse("it does not require a key")

    def warm_up(self, args):
        """Checks every response, even if the measurement only counts them. Otherwise one warm-up is enough."""
        if args.warm_up and (self.is_fixed or not self.is_warm):
            result = self.run_checked(args, args.warm_up)
            if result.wrong or result.socket_errors:
                wrong = f"{result.wrong} are wrong, {result.socket_errors} socket errors"
                raise harness.WrongResponse(f"of {result.requests} responses {wrong}")
            self.is_warm = True
            self.is_slow = result.requests < RESPONSES_MIN * self.connections(args)

    def run(self, args, seconds):
        seconds = max(seconds, self.workload.seconds_min, SLOW_SECONDS if self.is_slow else 0)
        return self.run_counted(args, seconds) if self.is_fixed else self.run_checked(args, seconds)

    def connections(self, args):
        return self.workload.connections or args.connections

    def run_checked(self, args, seconds):
        """Uses one thread per connection, so that each response is compared with the call of its connection."""
        connections = self.connections(args)
        environment = self.environment | {"CALL_RUN": str(next(RUNS))}
        script = "session.lua"
        if self.workload.is_churn:
            script = "churn.lua"
            params = {"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": calls.CLIENT}
            environment |= {
                "CALL_INITIALIZE": calls.message("initialize", params, CHECKED_ID),
                "CALL_INITIALIZED": calls.message("notifications/initialized"),
                "CALL_REVISION": LEGACY,
            }
        result = harness.wrk(args, self.target, seconds, script, environment, connections, connections)
        return result._replace(requests=result.requests / self.workload.requests)

    def run_counted(self, args, seconds):
        environment = {
            "CALL_HEADERS": (self.folder / "CALL_HEADERS").read_text(),
            "CALL_BODY": (self.folder / "CALL_BODY").read_text(),
        }
        connections = self.connections(args)
        result = harness.wrk(args, self.target, seconds, "call.lua", environment, 1, connections)
        # At the end, at most one response per connection is incomplete.
        if abs(result.received - result.requests * self.size) > connections * self.size:
            raise harness.WrongResponse(f"{result.received} bytes are not {result.requests} responses of {self.size} bytes")
        return result
