"""The performance claims about metamcp, whether a run supports them, and the tables of a run."""

import dataclasses
import statistics

from harness import middle, spread, table_head, table_row

OURS, DIRECT = "metamcp", "no proxy"
ROUTERS = ["envoy-mcp-2", "envoy-mcp-10"]


@dataclasses.dataclass(frozen=True)
class Claim:
    """metamcp needs at most `most` times the CPU time of each other target, in the median round."""

    number: int
    workload: str
    others: list
    most: float
    ours: str = OURS


ALL = [
    Claim(1, "small", ["nginx", "haproxy-http"], 0.75),
    Claim(1, "small", ["haproxy-tcp"], 1.2),
    Claim(1, "small", ROUTERS, 0.08),
    # The same message, with the same number of servers.
    Claim(1, "small", ROUTERS[1:], 0.08, "metamcp, 10 servers, session"),
    Claim(2, "64k", ["nginx", "nginx-tuned", "haproxy-http"], 0.9),
    Claim(2, "1m", ["nginx", "nginx-tuned", "haproxy-http"], 0.9),
    Claim(2, "1m-request", ["nginx", "nginx-tuned"], 1.3),
    Claim(2, "1m-request", ROUTERS, 0.15),
    Claim(3, "stream", ["haproxy-http"], 1.0),
    Claim(3, "stream-apart", ["haproxy-http"], 1.1),
    Claim(4, "list", ["nginx"], 1.3),
    Claim(8, "churn", ["nginx"], 0.9),
    Claim(10, "observed", ["metamcp, unobserved"], 1.05),
    Claim(10, "observed", [OURS], 1.02, "metamcp, recorded"),
]
# Smaller ratios are printed with one significant digit.
SMALL = 0.05
# The claim about the latency that a proxy adds without queueing.
ADDED = (7, "one", "nginx")


def verdicts(runs):
    """Returns a line for each claim that the run covers. `runs` has samples by workload and target."""
    lines = []
    for claim in ALL:
        row = runs.get(claim.workload, {})
        for other in claim.others:
            if claim.ours in row and other in row:
                found = [a / b for a, b in pairs(row[claim.ours], row[other], "cpu_us_per_request")]
                measured = (statistics.median(found), ratios(found))
                what = claim.workload if claim.ours == OURS else f"{claim.workload}: {claim.ours}"
                lines.append(verdict(claim.number, what, other, claim.most, *measured))
    number, workload, other = ADDED
    row = runs.get(workload, {})
    if {OURS, other, DIRECT} <= row.keys():
        ours, theirs = (added(row[name], row[DIRECT]) for name in (OURS, other))
        value = ours / theirs if theirs > 0 else float("inf")
        measured = f"{ours:.0f} us, compared with {theirs:.0f} us"
        lines.append(verdict(number, f"{workload}: p50 added", other, 1.0, value, measured))
    return sorted(lines, key=lambda line: int(line.split()[1]))


def verdict(number, what, other, most, value, found):
    return table_row([str(number), what, other, f"{most:.2f}", found, "yes" if value <= most else "**no**"])


def pairs(ours, theirs, field):
    """Pairs the samples of the same rounds. A target that failed in a round has no sample of it."""
    by_round = {sample.round: getattr(sample, field) for sample in theirs}
    return [(getattr(sample, field), by_round[sample.round]) for sample in ours if sample.round in by_round]


def added(row, direct):
    """The added latency in the median round, in microseconds."""
    return statistics.median(a - b for a, b in pairs(row, direct, "p50_us"))


def table(runs, order):
    """The CPU time of metamcp as a multiple of each other target's."""
    columns = [name for name in order if any(name in row for row in runs.values())]
    lines = ["CPU time of metamcp as a multiple of the others' in the same round: median (from, to)", ""]
    lines += table_head(["", *columns])
    for workload, row in runs.items():
        if OURS not in row:
            continue
        found = [pairs(row[OURS], row[name], "cpu_us_per_request") if name in row else [] for name in columns]
        lines.append(table_row([workload, *(ratios([a / b for a, b in each]) if each else "" for each in found)]))
    return lines


def ratios(values):
    """Like `spread`, but readable for ratios of a hundredth and less."""
    if statistics.median(values) >= SMALL:
        return spread(values)
    return f"{statistics.median(values):.1g} ({min(values):.1g} to {max(values):.1g})"


def details(workload, row):
    """The measurements of each target."""
    lines = [f"**{workload.name}**: {workload.about}", ""]
    unit = workload.unit
    head = ["", f"CPU us per {unit}", "outside the kernel", f"{unit}s/s", "p50 us", "p99 us", "share of its core"]
    lines += table_head(head)
    for name, samples in row.items():
        cpu, user, share = "", "", ""
        if name != DIRECT:
            cpu = spread([sample.cpu_us_per_request for sample in samples])
            user = f"{middle(samples, 'user_us_per_request'):.1f}"
            share = f"{middle(samples, 'cpu_share'):.2f}"
        rest = [f"{middle(samples, field):.0f}" for field in ("requests_per_second", "p50_us", "p99_us")]
        lines.append(table_row([name, cpu, user, *rest, share]))
    return [*lines, ""]
