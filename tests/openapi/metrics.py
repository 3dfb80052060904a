"""Reads both forms of a gateway's metrics with the parsers of Prometheus's own client library.

    metrics.py URL       METAMCP_ADMIN_KEY: an administrator's key
"""

import os
import sys
import urllib.request

from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client import parser as plain

# After a run against the document there is at least this.
EXPECTED = {"metamcp_control_responses", "metamcp_sessions", "metamcp_build_info", "metamcp_store_up"}


def ask(accept):
    headers = {"X-API-Key": os.environ["METAMCP_ADMIN_KEY"], "Accept": accept}
    request = urllib.request.Request(sys.argv[1] + "/metrics", headers=headers)
    with urllib.request.urlopen(request, timeout=30) as answer:
        media_type = answer.headers["Content-Type"]
        assert media_type.startswith(accept + ";"), media_type
        return answer.read().decode()


def read(parser, accept):
    """Families by name, each with its kind and the names and labels of its samples."""
    families = {}
    for family in parser.text_string_to_metric_families(ask(accept)):
        assert family.name not in families, f"{family.name} is there twice"
        assert family.documentation and family.type in ("counter", "gauge", "histogram"), family
        samples = [(sample.name, tuple(sorted(sample.labels.items()))) for sample in family.samples]
        assert samples and len(samples) == len(set(samples)), family.name
        families[family.name] = (family.type, set(samples))
    assert EXPECTED <= families.keys(), EXPECTED - families.keys()
    return families


read(plain, "text/plain")
before, after = read(openmetrics, "application/openmetrics-text"), read(plain, "text/plain")
for name, (kind, samples) in before.items():
    assert after[name][0] == kind and samples <= after[name][1], name
print(f"{len(after)} families in both forms")
