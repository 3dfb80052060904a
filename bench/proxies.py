"""The proxies that metamcp is compared with, each in front of the same stub: nginx, HAProxy, Envoy.

Each start function returns its targets by the name of a workload or by its slot: `call`, `stream`, `list` or `churn`. The
proxy does not support what is missing.
"""

import dataclasses
import json
import pathlib
import typing

import harness
import others
from calls import LEGACY, Target

# Servers behind an aggregating gateway. The stub serves all of them.
BACKENDS = 10


@dataclasses.dataclass(frozen=True)
class Place:
    """The environment of a comparison."""

    args: typing.Any
    work: pathlib.Path
    spawn: typing.Callable
    environment: dict
    # The folder of the plain build, and the program that is measured as metamcp.
    binaries: pathlib.Path
    metamcp: pathlib.Path
    # The port of the stub, and those of it as several servers with more tools.
    stub: int
    backends: list


NGINX = """\
daemon off;
worker_processes 1;
pid nginx.pid;
error_log stderr warn;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    # No limit of requests per connection; the default is 1000.
    keepalive_requests 1000000000;
    # The default rejects bodies over 1 MiB.
    client_max_body_size 16m;
    {tuning}
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    upstream stub {{
        server 127.0.0.1:{stub};
        keepalive 256;
        keepalive_requests 1000000000;
    }}
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    server {{
        listen 127.0.0.1:{port};
        location / {{ proxy_pass http://stub; }}
    }}
    # Events are forwarded immediately only without buffering.
    server {{
        listen 127.0.0.1:{streams};
        location / {{ proxy_pass http://stub; proxy_buffering off; }}
    }}
    server {{
        listen 127.0.0.1:{files};
        location / {{ root static; default_type application/json; }}
    }}
}}
"""

# Streams request bodies, and writes no temporary files.
NGINX_TUNING = (
    "proxy_request_buffering off; client_body_buffer_size 256k; proxy_max_temp_file_size 0; proxy_buffer_size 64k; "
    "proxy_buffers 16 64k; proxy_busy_buffers_size 128k;"
)

HAPROXY = """\
global
    nbthread 1
    maxconn 4096
defaults
    mode {mode}
    timeout connect 2s
    timeout client 60s
    timeout server 60s
{options}
frontend front
    bind 127.0.0.1:{port}
    default_backend stub
backend stub
    server stub 127.0.0.1:{stub}
"""
HAPROXY_HTTP = "    option http-keep-alive\n    http-reuse always\n"
# Otherwise it delays small writes by up to 200 ms.
HAPROXY_AT_ONCE = HAPROXY_HTTP + "    option http-no-delay\n"

ENVOY = "type.googleapis.com/envoy.extensions.filters"


def nginx(place):
    port, streams, files, pid = start_nginx(place, "nginx", "")
    plain = Target("nginx", port, "/mcp", pid)
    return {
        "call": plain,
        "stream": dataclasses.replace(plain, port=streams),
        "churn": dataclasses.replace(plain, revision=LEGACY),
        # The content of the file is written when the list is known.
        "list": dataclasses.replace(plain, port=files, path="/list.json", is_static=True),
    }


def nginx_tuned(place):
    """nginx tuned for large bodies, which otherwise go through files."""
    port, _, _, pid = start_nginx(place, "nginx-tuned", NGINX_TUNING)
    plain = Target("nginx-tuned", port, "/mcp", pid)
    return {"64k": plain, "1m": plain, "1m-request": plain}


def start_nginx(place, name, tuning):
    """Starts nginx. Returns its ports and its process."""
    ports, folder = harness.free_ports(3), place.work / name
    (folder / "static").mkdir(parents=True)
    # The workers run as another user and need access to their folders.
    folder.chmod(0o755)
    names = ("port", "streams", "files")
    text = NGINX.format(tuning=tuning, stub=place.stub, **dict(zip(names, ports, strict=True)))
    (folder / "nginx.conf").write_text(text)
    pid = place.spawn(place.args.proxy_core, "nginx", "-e", "stderr", "-c", folder / "nginx.conf", "-p", folder)
    return *ports, pid


def haproxy_http(place):
    plain = Target("haproxy-http", *start_haproxy(place, "http", HAPROXY_HTTP))
    at_once = Target("haproxy-http", *start_haproxy(place, "http", HAPROXY_AT_ONCE))
    return {
        "call": plain,
        "stream": plain,
        "stream-apart": at_once,
        "churn": dataclasses.replace(plain, revision=LEGACY),
    }


def haproxy_tcp(place):
    plain = Target("haproxy-tcp", *start_haproxy(place, "tcp", ""))
    return {"call": plain, "stream": plain, "churn": dataclasses.replace(plain, revision=LEGACY)}


def start_haproxy(place, mode, options):
    """Starts HAProxy. Returns port, path and process."""
    [port] = harness.free_ports(1)
    path = place.work / f"haproxy-{port}.cfg"
    path.write_text(HAPROXY.format(mode=mode, port=port, stub=place.stub, options=options))
    return port, "/mcp", place.spawn(place.args.proxy_core, "haproxy", "-db", "-f", path)


def envoy(place):
    """Envoy as a plain HTTP proxy."""
    router = {"name": "envoy.filters.http.router", "typed_config": {"@type": f"{ENVOY}.http.router.v3.Router"}}
    route = {"match": {"prefix": "/"}, "route": {"cluster": "stub", "timeout": "0s"}}
    port, pid = start_envoy(place, "envoy", [router], [route], {"stub": place.stub})
    plain = Target("envoy", port, "/mcp", pid)
    return {"call": plain, "stream": plain, "churn": dataclasses.replace(plain, revision=LEGACY)}


def envoy_mcp(count):
    """Envoy as an MCP gateway for `count` servers."""

    def start(place):
        name = f"envoy-mcp-{count}"
        clusters = {f"b{number}": port for number, port in enumerate(place.backends[:count])}
        servers = [{"name": each, "mcp_cluster": {"cluster": each, "path": "/mcp", "timeout": "60s"}} for each in clusters]
        filters = [
            {"name": "envoy.filters.http.mcp", "typed_config": {"@type": f"{ENVOY}.http.mcp.v3.Mcp", **ENVOY_MCP}},
            {
                "name": "envoy.filters.http.mcp_router",
                "typed_config": {"@type": f"{ENVOY}.http.mcp_router.v3.McpRouter", "servers": servers},
            },
        ]
        route = {"match": {"prefix": "/"}, "route": {"cluster": "b0", "timeout": "0s"}}
        port, pid = start_envoy(place, name, filters, [route], clusters)
        plain = Target(name, port, "/mcp", pid, LEGACY, "b0__echo", is_ordered=False)
        return {"call": plain, "stream": plain, "churn": plain, **({"list": plain} if count == BACKENDS else {})}

    return start


# The default rejects bodies over 8 KiB.
ENVOY_MCP = {"max_request_body_size": 4 << 20}


def start_envoy(place, name, filters, routes, clusters):
    [port] = harness.free_ports(1)
    manager = {
        "@type": f"{ENVOY}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "front",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
        "http_filters": filters,
    }
    chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
    listener = {"name": "front", "address": address(port), "filter_chains": [chain]}
    found = [cluster(each, port) for each, port in clusters.items()]
    path = place.work / f"{name}.json"
    path.write_text(json.dumps({"static_resources": {"listeners": [listener], "clusters": found}}))
    options = ["--concurrency", "1", "--disable-hot-restart", "--log-level", "error", "-c", path]
    return port, place.spawn(place.args.proxy_core, others.program("envoy", "envoy"), *options)


def address(port):
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def cluster(name, port):
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": address(port)}}]}]
    return {"name": name, "type": "STATIC", "load_assignment": {"cluster_name": name, "endpoints": endpoints}}
