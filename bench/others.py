"""Installs what is compared with, as pinned in bench/others, into target/compare: each into an environment of its own."""

import hashlib
import pathlib
import shutil
import sys

import harness
from harness import ROOT

PINS = ROOT / "bench/others"
PLACE = ROOT / "target/compare"


def program(name, command):
    """A program of what was installed under a name."""
    return PLACE / name / "bin" / command


def version(name, package):
    """The version of a package that is pinned."""
    pins = dict(line.split("==") for line in pins_of(name).read_text().splitlines())
    return f"{package} {pins[package]}"


def pins_of(name):
    return PINS / f"{name}.txt"


def install(name):
    """Into an environment of its own, unless it was installed from the same pins."""
    folder, pins = PLACE / name, pins_of(name)
    stamp, digest = folder / ".installed", hashlib.sha256(pins.read_bytes()).hexdigest()
    if stamp.exists() and stamp.read_text() == digest:
        return
    shutil.rmtree(folder, ignore_errors=True)
    harness.run([sys.executable, "-m", "venv", folder])
    pip = [pathlib.Path(folder / "bin/pip"), "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    harness.run([*pip, "-r", pins])
    stamp.write_text(digest)
