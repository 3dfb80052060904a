"""The gateways: metamcp in several configurations, and other gateways from package registries.

Each start function returns its targets by workload or slot, as in `proxies`.
"""

import dataclasses
import json
import subprocess
import time
import urllib.error
import urllib.request

import harness
import others
from calls import LEGACY, MODERN, Target
from harness import START_SECONDS_MAX

SERVER = """\
[server]
port = {port}
workers = 1
"""

SERVER_ENTRY = """
[servers.{name}]
url = "http://127.0.0.1:{port}/mcp"
era = "{era}"
"""

# Switches metrics off. Builds without metrics do not know the setting.
UNOBSERVED = """
[telemetry]
metrics = "off"
"""
RECORDED = """
[records]
target = "file"
"""

# Time to start, as it creates a database first.
CONTEXTFORGE_SECONDS_MAX = 180
# No authentication, no limits, and servers on this machine are allowed.
CONTEXTFORGE = [
    "AUTH_REQUIRED=false",
    "MCP_REQUIRE_AUTH=false",
    "ALLOW_UNAUTHENTICATED_ADMIN=true",
    "ENVIRONMENT=development",
    "JWT_SECRET_KEY=of-a-comparison-that-nobody-signs-in-to-0001",
    "AUTH_ENCRYPTION_SECRET=of-a-comparison-that-nobody-signs-in-to-0002",
    "SSRF_ALLOW_LOCALHOST=true",
    "SSRF_ALLOW_PRIVATE_NETWORKS=true",
    "RATE_LIMITING_ENABLED=false",
    "PLUGINS_ENABLED=false",
    "MCPGATEWAY_UI_ENABLED=false",
    "CACHE_TYPE=memory",
    "LOG_LEVEL=ERROR",
]

FASTMCP = """\
import sys
from fastmcp.server import create_proxy

proxy = create_proxy({"mcpServers": {f"b{n}": {"url": url} for n, url in enumerate(sys.argv[2:])}}, name="proxy")
proxy.run(transport="http", host="127.0.0.1", port=int(sys.argv[1]), log_level="error", show_banner=False)
"""


def gateway(place, name, servers, program=None, settings="", more=(), key=True):
    """Starts a metamcp. `servers` are tuples of name, port and era. Returns port, process and key."""
    [port] = harness.free_ports(1)
    folder = place.work / name
    folder.mkdir()
    text = SERVER.format(port=port)
    text += "".join(SERVER_ENTRY.format(name=name, port=each, era=era) for name, each, era in servers)
    (folder / "metamcp.toml").write_text(text + settings)
    options = ["--config", folder / "metamcp.toml", "--data-dir", folder / "data"]
    found = harness.create_key(place.binaries / "keyadm", folder / "data", place.environment) if key else None
    return port, place.spawn(place.args.proxy_core, program or place.metamcp, *options, *more), found


def metamcp(place):
    """metamcp in both eras, with lists over all servers and with a server that has sessions."""
    port, pid, key = gateway(place, "metamcp", [("stub", place.stub, "modern")])
    ten = [(f"b{number}", each, "modern") for number, each in enumerate(place.backends)]
    lists, lists_pid, lists_key = gateway(place, "metamcp-list", ten)
    churn, churn_pid, churn_key = gateway(place, "metamcp-churn", [("stub", place.stub, "legacy")])
    plain = Target("metamcp", port, "/mcp", pid, tool="stub__echo", credential=key)
    return {
        "call": plain,
        "stream": plain,
        "list": dataclasses.replace(plain, port=lists, pid=lists_pid, credential=lists_key, tool="b0__echo"),
        "churn": dataclasses.replace(plain, port=churn, pid=churn_pid, credential=churn_key, revision=LEGACY),
    }


def metamcp_by_server(place):
    """metamcp through the path of a single server, without renamed tools."""
    port, pid, key = gateway(place, "metamcp-by-server", [("stub", place.stub, "modern")])
    return {"small": Target("metamcp /servers/stub/mcp", port, "/servers/stub/mcp", pid, credential=key)}


def metamcp_plain(place):
    """metamcp as built by `cargo build --release`."""
    program = place.binaries / "metamcp"
    if not program.exists():
        raise harness.WrongResponse("it is not built")
    port, pid, key = gateway(place, "metamcp-plain", [("stub", place.stub, "modern")], program)
    return {"small": Target("metamcp, cargo build", port, "/mcp", pid, tool="stub__echo", credential=key)}


def metamcp_old(place):
    """metamcp between Legacy clients and Legacy servers, as Envoy is measured, and between Legacy clients and a Modern server."""
    port, pid, key = gateway(place, "metamcp-old", [(f"b{n}", each, "legacy") for n, each in enumerate(place.backends)])
    plain = Target("metamcp, 10 servers, session", port, "/mcp", pid, LEGACY, "b0__echo", key)
    newer, newer_pid, newer_key = gateway(place, "metamcp-newer", [("stub", place.stub, "modern")])
    bridged = Target("metamcp before a newer server", newer, "/mcp", newer_pid, LEGACY, "stub__echo", newer_key)
    return {"small": plain, "churn": bridged}


def metamcp_unobserved(place):
    """metamcp without metrics."""
    return {"observed": configured(place, "metamcp, unobserved", "unobserved", UNOBSERVED)}


def metamcp_recorded(place):
    """metamcp with a record of each call in a file."""
    return {"observed": configured(place, "metamcp, recorded", "recorded", RECORDED)}


def configured(place, label, name, settings):
    """Starts metamcp with settings that earlier builds may not have."""
    path = place.work / f"{name}.toml"
    path.write_text(settings)
    command = [place.metamcp, "check", "--config", path, "--data-dir", place.work / name]
    if subprocess.run(command, env=place.environment, capture_output=True, check=False).returncode:
        raise harness.WrongResponse("this build does not have the setting")
    port, pid, key = gateway(place, f"metamcp-{name}", [("stub", place.stub, "modern")], settings=settings)
    return Target(label, port, "/mcp", pid, tool="stub__echo", credential=key)


def fastmcp(place):
    """FastMCP as a proxy of all servers, and as a proxy of one."""
    program, script = others.program("fastmcp", "python"), place.work / "proxy.py"
    script.write_text(FASTMCP)

    def start(backends):
        [port] = harness.free_ports(1)
        urls = [f"http://127.0.0.1:{backend}/mcp" for backend in backends]
        return port, place.spawn(place.args.proxy_core, program, script, port, *urls)

    port, pid = start([place.stub])
    plain = Target("fastmcp", port, "/mcp", pid)
    lists, lists_pid = start(place.backends)
    return {
        "call": plain,
        "stream": plain,
        "churn": dataclasses.replace(plain, revision=LEGACY),
        "list": dataclasses.replace(plain, port=lists, pid=lists_pid, tool="b0_echo"),
    }


def contextforge(place):
    """ContextForge with all servers. It has sessions only with Redis."""
    [port] = harness.free_ports(1)
    path = place.work / "contextforge.sqlite"
    settings = [*CONTEXTFORGE, f"DATABASE_URL=sqlite:///{path}"]
    options = ["--host", "127.0.0.1", "--port", port]
    program = others.program("contextforge", "mcpgateway")
    pid = place.spawn(place.args.proxy_core, "env", *settings, program, *options)
    for number, backend in enumerate(place.backends):
        server = {"name": f"b{number}", "url": f"http://127.0.0.1:{backend}/mcp", "transport": "STREAMABLEHTTP"}
        register_server(port, server)
    plain = Target("contextforge", port, "/mcp", pid, LEGACY, "b0-echo", has_sessions=False, is_ordered=False)
    return {"call": plain, "stream": plain, "list": plain}


def register_server(port, server):
    """Registers a server with ContextForge as soon as it listens."""
    deadline = time.monotonic() + CONTEXTFORGE_SECONDS_MAX
    fields = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"http://127.0.0.1:{port}/gateways", json.dumps(server).encode(), fields)
    while True:
        try:
            with urllib.request.urlopen(request, timeout=CONTEXTFORGE_SECONDS_MAX):
                return
        except urllib.error.HTTPError as error:
            raise harness.WrongResponse(f"the server was refused: {error} {error.read()[:200]!r}") from error
        except OSError as error:
            if time.monotonic() > deadline:
                raise harness.WrongResponse(f"it does not listen: {error}") from error
            time.sleep(0.5)


# The kinds of credentials, the cheapest first.
CREDENTIALS = ["no authentication", "API key", "token"]


def credentials(place):
    """Starts one gateway per kind of credential. Returns the targets."""
    targets = []
    for kind in CREDENTIALS:
        # The token must outlive the load.
        settings, more = '\n[auth]\ntoken_lifetime = "24h"\n', ["--no-auth"] if kind == CREDENTIALS[0] else []
        servers = [("stub", place.stub, "modern")]
        port, pid, key = gateway(place, kind.replace(" ", "-"), servers, settings=settings, more=more)
        credential = {CREDENTIALS[0]: None, CREDENTIALS[1]: key}.get(kind, "")
        if credential == "":
            credential = token(port, key)
        targets.append(Target(kind, port, "/mcp", pid, MODERN, "stub__echo", credential))
    return targets


def token(port, key):
    """Exchanges a key for a token as soon as the gateway listens."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/api/v1/auth/token", json.dumps({"api_key": key}).encode()
    )
    deadline = time.monotonic() + START_SECONDS_MAX
    while True:
        try:
            with urllib.request.urlopen(request, timeout=START_SECONDS_MAX) as response:
                return json.load(response)["access_token"]
        except urllib.error.HTTPError:
            raise
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
