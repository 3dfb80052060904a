"""Prints the line coverage of each module from an lcov file.

    coverage.py LCOV REASONS [--missing]

REASONS is a TOML file with a table `reasons`: for each module that may be below 80 %, why.
"""

import collections
import pathlib
import re
import sys
import tomllib

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
TOTAL_MIN = 90
MODULE_MIN = 80
TEST_MODULE = re.compile(r"(pub(\([^)]*\))? )?mod tests \{")


def main():
    lcov, reasons, *flags = sys.argv[1:]
    reasons = tomllib.loads(pathlib.Path(reasons).read_text())["reasons"]
    modules = collections.defaultdict(lambda: [0, 0])
    missing = {}
    for path, lines in read(lcov):
        module = module_of(path)
        if module is None:
            continue
        end = first_test_line(ROOT / path)
        counted = {line: hits for line, hits in lines.items() if line < end}
        modules[module][0] += sum(hits > 0 for hits in counted.values())
        modules[module][1] += len(counted)
        missing[path] = [line for line, hits in counted.items() if hits == 0]
    failures = []
    for module, (run, lines) in sorted(modules.items()):
        share = percent(run, lines)
        note = "" if share >= MODULE_MIN else reasons.get(module, "NO REASON GIVEN")
        print(f"{module:40} {share:5.1f} %  {run:6} of {lines:6}  {note}")
        if share < MODULE_MIN and module not in reasons:
            failures.append(f"{module} is below {MODULE_MIN} %: test it, or give a reason in tools/coverage.toml")
    run, lines = (sum(column) for column in zip(*modules.values()))
    print(f"{'total':40} {percent(run, lines):5.1f} %  {run:6} of {lines:6}")
    if percent(run, lines) < TOTAL_MIN:
        failures.append(f"less than {TOTAL_MIN} % of all lines are run")
    if "--missing" in flags:
        for path, lines in sorted(missing.items()):
            if lines:
                print(f"{path}: {', '.join(ranges(lines))}")
    sys.exit("\n".join(failures) or None)


def read(path):
    """Yields each source file, relative to the root, and the hits of its lines."""
    name, lines = None, {}
    for line in pathlib.Path(path).read_text().splitlines():
        kind, _, value = line.partition(":")
        if kind == "SF":
            name, lines = value, {}
        elif kind == "DA":
            number, hits = value.split(",")[:2]
            lines[int(number)] = int(hits)
        elif kind == "end_of_record" and pathlib.Path(name).is_relative_to(ROOT):
            yield str(pathlib.Path(name).relative_to(ROOT)), lines


def module_of(path):
    """`src/session`, `crates/metamcp-store/auth`, `tools/keyadm`; None for test code and other programs."""
    parts = pathlib.PurePath(path).parts
    if {"tests", "fuzz"} & set(parts) or parts[-1] in ("tests.rs", "testing.rs", "fuzz.rs"):
        return None
    if parts[0] == "src":
        return f"src/{parts[1].removesuffix('.rs')}"
    if parts[0] == "crates":
        return f"{parts[0]}/{parts[1]}/{parts[3].removesuffix('.rs')}" if len(parts) > 4 else f"{parts[0]}/{parts[1]}"
    return "tools/keyadm" if parts[:2] == ("tools", "keyadm") else None


def first_test_line(path):
    """The unit tests of a file are at its end, below `#[cfg(test)]`."""
    lines = path.read_text().splitlines()
    for number, line in enumerate(lines, 1):
        if line == "#[cfg(test)]" and any(TEST_MODULE.match(below) for below in lines[number:number + 2]):
            return number
    return len(lines) + 1


def percent(part, whole):
    return 100 * part / whole if whole else 100


def ranges(lines):
    begin = last = None
    for line in [*sorted(lines), None]:
        if begin is not None and line != last + 1:
            yield str(begin) if begin == last else f"{begin}-{last}"
            begin = None
        if begin is None:
            begin = line
        last = line


if __name__ == "__main__":
    main()
