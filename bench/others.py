"""Installs the other gateways, as pinned in bench/others, into target/compare, each into its own environment."""

import hashlib
import pathlib
import shutil
import sys

import harness
from harness import ROOT

PINS = ROOT / "bench/others"
INSTALL_ROOT = ROOT / "target/compare"


def program(name, command):
    """The path of a program of an installed gateway."""
    return INSTALL_ROOT / name / "bin" / command


def version(name, package):
    """The pinned version of a package."""
    pins = dict(line.split("==") for line in pins_of(name).read_text().splitlines())
    return f"{package} {pins[package]}"


def pins_of(name):
    return PINS / f"{name}.txt"


def install(name):
    """Installs a gateway into its own environment, unless it is installed from the same pins."""
    folder, pins = INSTALL_ROOT / name, pins_of(name)
    stamp, digest = folder / ".installed", hashlib.sha256(pins.read_bytes()).hexdigest()
    if stamp.exists() and stamp.read_text() == digest:
        return
    shutil.rmtree(folder, ignore_errors=True)
    harness.run([sys.executable, "-m", "venv", folder])
    pip = [pathlib.Path(folder / "bin/pip"), "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    harness.run([*pip, "-r", pins])
    stamp.write_text(digest)
