"""Shared parts of the comparison scripts: programs pinned to cores, load by wrk in rounds of rotated order, and the files
of a run.

CPU time is that of all processes of a target. Targets are compared within a round, since that is robust on a machine that
runs other programs. Does not know what is compared, or what a correct response is: each script checks its own.
"""

import argparse
import contextlib
import csv
import dataclasses
import datetime
import json
import os
import pathlib
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import typing

ROOT = pathlib.Path(__file__).resolve().parent.parent
# On Debian, proxies and the load generator are in sbin directories, which may not be on the path.
PATH = os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin"
TICKS = os.sysconf("SC_CLK_TCK")
# Time for a program to start.
START_SECONDS_MAX = 15
# Time for a program to stop before it is killed.
STOP_SECONDS_MAX = 15
# Timeout of one response.
RESPONSE_SECONDS_MAX = 30
# Lines of the programs' logs that are printed after a failure.
LOG_LINES = 20
# Gives this session some nine tenths of a core next to a session that compiles.
SESSION_NICE = "-10"


@dataclasses.dataclass(frozen=True)
class Target:
    """A server that the load is sent to."""

    name: str
    port: int
    path: str
    # The process whose CPU time is measured, with its children; None: no CPU time is measured.
    pid: int | None

    def cpu_seconds(self):
        return cpu_seconds(self.pid)


class WrongResponse(Exception):
    """Responses of a target are wrong or missing."""


class Result(typing.NamedTuple):
    """The fields that a wrk script prints after `RESULT`, in this order; times in microseconds."""

    duration_us: int
    requests: int
    received: int
    wrong: int
    socket_errors: int
    p50_us: int
    p99_us: int


@dataclasses.dataclass(frozen=True)
class Sample:
    """One measurement of one target in one round."""

    round: int
    target: str
    seconds: float
    requests: int
    requests_per_second: float
    cpu_us_per_request: float
    # The part outside the kernel.
    user_us_per_request: float
    # Share of the proxy's core.
    cpu_share: float
    p50_us: int
    p99_us: int
    wrong_status: int
    socket_errors: int
    # CPU time of other processes on the proxy's core, and time stolen by the hypervisor.
    others_seconds: float
    steal_seconds: float
    # Empty in scripts with a single workload.
    workload: str = ""


def parser(description):
    """Creates a parser with the options of every script."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=5, help="seconds of each measurement")
    parser.add_argument("--warm-up", type=int, default=2, help="seconds before each measurement")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--proxy-core", type=int, default=0)
    parser.add_argument("--load-core", type=int, default=1, help="core of the load generator and the server")
    parser.add_argument("--name", default=f"{os.cpu_count()}-cores", help="name of the folder, after the date")
    parser.add_argument("--dry", action="store_true", help="print the results and write no files")
    return parser


def install(packages):
    """Installs missing programs with apt. `packages` maps programs to packages."""
    missing = [package for program, package in packages.items() if not shutil.which(program, path=PATH)]
    if missing:
        run(["apt-get", "install", "-y", "--no-install-recommends", *missing])


def build(*options):
    """Runs a release build with the given Cargo options. Returns the folder of the programs."""
    run(["cargo", "build", "--release", *options])
    return pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"


def pin(core):
    """Returns the command prefix that pins a command to a core."""
    return ["taskset", "-c", str(core)]


@contextlib.contextmanager
def raised_priority():
    """Raises the scheduling priority of this session, where the kernel schedules by session and permits it."""
    group = pathlib.Path("/proc/self/autogroup")
    try:
        before = group.read_text().rpartition("nice")[2].strip()
        group.write_text(SESSION_NICE)
    except OSError:
        yield
        return
    try:
        yield
    finally:
        group.write_text(before)


def run(command):
    subprocess.run(command, cwd=ROOT, check=True)


def output(command, **options):
    return subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE, **options).stdout


def first_line(command, **options):
    return output(command, env={**os.environ, "PATH": PATH}, **options).splitlines()[0]


@contextlib.contextmanager
def workplace():
    """Yields a temporary folder, a function that starts a program pinned to a core, and its environment. Stops all at the end."""
    # The user's own configuration must not influence the measurement.
    with tempfile.TemporaryDirectory(prefix="metamcp-compare-") as name:
        work, started = pathlib.Path(name), []
        environment = {"PATH": PATH, "HOME": name, "LANG": "C.UTF-8"}
        # The workers of nginx run as another user and need access to their folders.
        work.chmod(0o755)

        def spawn(core, *command):
            pinned = [*pin(core), *map(str, command)]
            with open(work / "log.txt", "ab") as log:
                process = subprocess.Popen(pinned, cwd=work, env=environment, stdout=log, stderr=log)
            started.append(process)
            return process.pid

        try:
            yield work, spawn, environment
        except BaseException:
            # The log may show the reason.
            log_text = (work / "log.txt").read_text(errors="replace") if started else ""
            print(*log_text.splitlines()[-LOG_LINES:], sep="\n", file=sys.stderr)
            raise
        finally:
            for process in reversed(started):
                process.terminate()
                try:
                    process.wait(timeout=STOP_SECONDS_MAX)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


def create_key(keyadm, data, environment):
    """Creates a key in a data directory, which is created if it does not exist."""
    command = [keyadm, "--data-dir", data, "keys", "create", "--name", "compare", "--json"]
    return json.loads(output(command, env=environment))["key"]


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def wrk(args, target, seconds, script, environment, threads=1, connections=None):
    """Loads a target with wrk, pinned to a core. The wrk script takes the requests from the environment."""
    connections = str(connections or args.connections)
    command = [*pin(args.load_core), "wrk", "-t", str(threads), "-c", connections, "-d", f"{seconds}s"]
    # A slow gateway or a long stream must not count as a timeout.
    command += ["--timeout", f"{RESPONSE_SECONDS_MAX}s"]
    command += ["-s", ROOT / "bench" / script, f"http://127.0.0.1:{target.port}{target.path}"]
    paths = {"PATH": PATH, "LUA_PATH": str(ROOT / "bench/?.lua")}
    done = subprocess.run(command, env={**paths, **environment}, text=True, capture_output=True, check=True)
    # Each thread prints its first error; one of them is enough.
    print(*done.stderr.splitlines()[:1], sep="", end="\n" if done.stderr else "", file=sys.stderr)
    for line in done.stdout.splitlines():
        if line.startswith("RESULT "):
            return Result(*map(int, line.split()[1:]))
    sys.exit("wrk gave no result")


def rounds(args, targets, load, check):
    """Measures every target once per round: runs `load(target, seconds)` and passes its result to `check(target, result)`."""
    samples = []
    for number in range(args.rounds):
        for target in rotated(targets, number):
            if args.warm_up:
                load(target, args.warm_up)
            try:
                sample = measure(args, number + 1, target, load, check)
            except WrongResponse as error:
                sys.exit(f"{target.name}: {error}")
            print(f"round {sample.round}: {sample.target}: {sample.cpu_us_per_request:.2f} us per request", flush=True)
            samples.append(sample)
    return samples


def rotated(targets, number):
    """Rotates the order of a round, so that no target is always first."""
    shift = number % len(targets)
    return targets[shift:] + targets[:shift]


def measure(args, number, target, load, check):
    """Takes one sample. Raises `WrongResponse` if a response is wrong."""
    cpu, core, wall = target.cpu_seconds(), core_seconds(args.proxy_core), time.monotonic()
    result = load(target, args.seconds)
    user, system = (after - before for after, before in zip(target.cpu_seconds(), cpu))
    cpu = user + system
    wall = time.monotonic() - wall
    busy, steal = (after - before for after, before in zip(core_seconds(args.proxy_core), core))
    if not result.requests:
        raise WrongResponse(f"no response in {result.duration_us / 1e6:.0f} s")
    if result.wrong or result.socket_errors:
        error = f"of {result.requests} responses {result.wrong} are wrong, {result.socket_errors} socket errors"
        raise WrongResponse(error)
    check(target, result)
    seconds = result.duration_us / 1e6
    return Sample(
        round=number,
        target=target.name,
        seconds=seconds,
        requests=result.requests,
        requests_per_second=result.requests / seconds,
        cpu_us_per_request=cpu * 1e6 / result.requests,
        user_us_per_request=user * 1e6 / result.requests,
        cpu_share=cpu / wall,
        p50_us=result.p50_us,
        p99_us=result.p99_us,
        wrong_status=result.wrong,
        socket_errors=result.socket_errors,
        others_seconds=max(0.0, busy - cpu),
        steal_seconds=steal,
    )


def cpu_seconds(pid, apart=frozenset()):
    """User and system time of a process tree, without the subtrees of `apart`."""
    times = [(0.0, 0.0)]
    for each in tree(pid, apart) if pid else []:
        # User and system time are the 14th and 15th field.
        fields = process_fields(each)
        times.append((int(fields[11]) / TICKS, int(fields[12]) / TICKS))
    return tuple(map(sum, zip(*times)))


def tree(pid, apart=frozenset()):
    """The processes of a tree, without the subtrees of `apart`."""
    below = {}
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        # Other processes may end meanwhile.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            below.setdefault(int(process_fields(folder.name)[1]), []).append(int(folder.name))
    found, to_do = [], [pid]
    while to_do:
        each = to_do.pop()
        if each not in apart:
            found.append(each)
            to_do += below.get(each, [])
    return found


def process_fields(pid):
    """The fields of /proc/PID/stat from the third on. The second is a name with arbitrary characters."""
    return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def core_seconds(core):
    """The busy and the stolen time of a core."""
    lines = pathlib.Path("/proc/stat").read_text().splitlines()
    fields = next(line for line in lines if line.startswith(f"cpu{core} ")).split()
    user, nice, system, _idle, _wait, irq, softirq, steal = (int(field) / TICKS for field in fields[1:9])
    return user + nice + system + irq + softirq, steal


def by_target(samples):
    """Groups samples by target, in the order of rounds."""
    names = dict.fromkeys(sample.target for sample in samples)
    ordered = sorted(samples, key=lambda sample: sample.round)
    return {name: [sample for sample in ordered if sample.target == name] for name in names}


def on_the_core(samples):
    return (
        f"Other processes on the proxies' core: {total(samples, 'others_seconds')}; "
        f"stolen by the hypervisor: {total(samples, 'steal_seconds')}."
    )


def total(samples, field):
    share = sum(getattr(sample, field) for sample in samples) / sum(sample.seconds for sample in samples)
    return f"{share:.1%} of the time"


def middle(row, field):
    return statistics.median(getattr(sample, field) for sample in row)


def ratio(ours, theirs, field="cpu_us_per_request"):
    """The ratio of a field, round by round."""
    return spread([getattr(a, field) / getattr(b, field) for a, b in zip(ours, theirs, strict=True)])


def spread(values):
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def table_head(cells):
    return [table_row(cells), "|" + "---|" * len(cells)]


def table_row(cells):
    return "| " + " | ".join(cells) + " |"


def write_run(args, samples, text, versions, load=None):
    """Writes bench/runs/<date>-<name>/. `versions` are those of the compared programs. The load is wrk by default."""
    fields = [field.name for field in dataclasses.fields(Sample)]
    write_folder(args.name, text, (fields, map(dataclasses.astuple, samples)), versions, load)


def write_folder(name, text, raw, versions, load=None):
    """Writes a run folder with samples of any kind. `raw` has the field names and the rows."""
    stem = f"{datetime.date.today()}-{name}"
    names = (stem if number == 1 else f"{stem}-{number}" for number in range(1, 1000))
    folder = next(path for name in names if not (path := ROOT / "bench/runs" / name).exists())
    folder.mkdir(parents=True)
    (folder / "summary.md").write_text(f"# {folder.name}\n\n{text}\n")
    fields, rows = raw
    with open(folder / "raw.csv", "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(fields)
        for row in rows:
            writer.writerow(f"{value:.3f}" if isinstance(value, float) else value for value in row)
    (folder / "machine.txt").write_text(machine(versions, load))
    print(f"\nwritten to {folder.relative_to(ROOT)}")


def machine(versions, load):
    """Describes the machine, without anything that identifies it."""
    cpuinfo = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in cpuinfo if line.startswith("model name")), "unknown")
    changed = output(["git", "status", "--porcelain", "--untracked-files=no"], cwd=ROOT)
    rows = {
        "cpu": model,
        "cores": os.cpu_count(),
        "kernel": os.uname().release,
        **versions,
        "load": load or wrk_version(),
        "rustc": first_line(["rustc", "--version"]),
        "commit": first_line(["git", "rev-parse", "HEAD"], cwd=ROOT) + (" with changes" if changed else ""),
        "command": " ".join([f"bench/{pathlib.Path(sys.argv[0]).name}", *sys.argv[1:]]),
    }
    return "".join(f"{name}: {value}\n" for name, value in rows.items())


def wrk_version():
    # It says its version with its help, and calls that a failure.
    return subprocess.run(["wrk", "-v"], text=True, capture_output=True, check=False).stdout.splitlines()[0]
