"""What is asked of every target, and how: one row of the table each."""

import dataclasses
import http.client
import itertools
import sys
import time

import calls
import harness
from calls import CHECKED_ID, LEGACY, MODERN, Shape

# Events of a stream, and the time between those that come apart.
EVENTS = 100
APART_MS = 5
# Tools of each of the servers behind a list.
TOOLS = 20
# Requests of a session that lives for one call.
SESSION_REQUESTS = 4
# Who gives fewer answers than these on each connection while it warms up is measured for so many seconds.
ANSWERS_MIN, SLOW_SECONDS = 4, 6
# Each has a thread of the load, which is told apart by three digits of its ids.
CONNECTIONS_MAX = 999
# Numbers of runs, four digits each, so that no answer of one is right in another.
RUNS = itertools.count(1000)


@dataclasses.dataclass(frozen=True)
class Workload:
    name: str
    about: str
    # What a competitor does it with, where it has nothing of the workload's own name.
    slot: str = "call"
    shape: Shape = Shape()
    # How the stub answers calls meanwhile.
    mode: str = "bytes=0"
    # None: as many as were asked for.
    connections: int | None = None
    # Requests are all the same and answers are counted, for those that would wait for a load that looks at each.
    is_fixed: bool = False
    # What a measurement is given at least, in seconds.
    seconds_min: int = 1
    # Events are to be passed on one by one, as they come.
    is_apart: bool = False
    # Sessions are opened and ended.
    is_churn: bool = False
    # Requests that make one of what is counted.
    requests: int = 1
    # What is counted.
    unit: str = "call"


ALL = [
    Workload("small", "`tools/call` of the smallest size", is_fixed=True),
    Workload("64k", "answers of 64 KiB", shape=Shape(answer_bytes=64 << 10), mode=f"bytes={64 << 10}"),
    Workload("1m", "answers of 1 MiB", shape=Shape(answer_bytes=1 << 20), mode=f"bytes={1 << 20}", connections=8),
    Workload("1m-request", "requests of 1 MiB", shape=Shape(request_bytes=1 << 20), connections=8),
    Workload(
        "stream",
        f"{EVENTS} events of progress and a result, all at once",
        "stream",
        Shape(events=EVENTS),
        f"events={EVENTS}",
        connections=16,
        unit="stream",
    ),
    Workload(
        "stream-apart",
        f"the same, {APART_MS} ms apart",
        "stream",
        Shape(events=EVENTS),
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
        Shape("tools/list", tools=10 * TOOLS),
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
    Workload("observed", "the small call, with metrics and without", "observed", is_fixed=True),
]
BY_NAME = {workload.name: workload for workload in ALL}


def target_of(workload, targets):
    """What a competitor does it with; None where it cannot."""
    return targets.get(workload.name, targets.get(workload.slot))


def switch(port, mode):
    """Has the stub answer calls in a way from now on, as soon as it listens."""
    deadline = time.monotonic() + harness.START_SECONDS_MAX
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=harness.START_SECONDS_MAX)
        try:
            connection.request("PUT", f"/mode?{mode}")
            if connection.getresponse().status != 200:
                sys.exit(f"the stub does not know {mode}")
            return
        except OSError as error:
            if time.monotonic() > deadline:
                sys.exit(f"the stub does not listen: {error}")
            time.sleep(0.1)
        finally:
            connection.close()


class Load:
    """One workload on one target, whose answer was checked."""

    def __init__(self, workload, target, folder):
        """Raises `Wrong` where the target does not do it rightly."""
        self.workload, self.target = workload, calls.opened(target)
        # In a session, every call needs an id of its own.
        self.is_fixed = workload.is_fixed and target.revision == MODERN
        self.is_warm = self.is_slow = False
        answer = calls.checked(self.target, workload.shape)
        if workload.is_apart and not calls.passes_at_once(self.target, workload.shape):
            raise harness.Wrong("it holds events back")
        # That what differs between two answers is the id and nothing else, the load finds out.
        self.size = answer.size
        self.folder = folder / f"{workload.name}-{target.name}".replace("/", "-").replace(" ", "-")
        self.folder.mkdir()
        # Who opens sessions of its own begins without one.
        asker = dataclasses.replace(self.target, session=None) if workload.is_churn else self.target
        self.environment = calls.to_files(self.folder, asker, workload.shape, answer)
        if target.credential and not calls.asks_for_key(self.target, workload.shape):
            raise harness.Wrong("it does not ask for a key")

    def warm_up(self, args):
        """Looks at every answer, also where the measurement counts them only; elsewhere once is enough."""
        if args.warm_up and (self.is_fixed or not self.is_warm):
            result = self.each_checked(args, args.warm_up)
            if result.wrong or result.socket_errors:
                wrong = f"{result.wrong} are wrong, {result.socket_errors} socket errors"
                raise harness.Wrong(f"of {result.requests} answers {wrong}")
            self.is_warm = True
            self.is_slow = result.requests < ANSWERS_MIN * self.connections(args)

    def run(self, args, seconds):
        seconds = max(seconds, self.workload.seconds_min, SLOW_SECONDS if self.is_slow else 0)
        return self.counted(args, seconds) if self.is_fixed else self.each_checked(args, seconds)

    def connections(self, args):
        return self.workload.connections or args.connections

    def each_checked(self, args, seconds):
        """From a thread for each connection, so that an answer can be compared with the call of its connection."""
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

    def counted(self, args, seconds):
        environment = {
            "CALL_HEADERS": (self.folder / "CALL_HEADERS").read_text(),
            "CALL_BODY": (self.folder / "CALL_BODY").read_text(),
        }
        connections = self.connections(args)
        result = harness.wrk(args, self.target, seconds, "call.lua", environment, 1, connections)
        # What was cut off at the end is at most one answer a connection.
        if abs(result.received - result.requests * self.size) > connections * self.size:
            raise harness.Wrong(f"{result.received} bytes are not {result.requests} answers of {self.size} bytes")
        return result
