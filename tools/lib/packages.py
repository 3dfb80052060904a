"""Packs programs that are already built into the files of a release.

Knows the formats of the packages; what is in `deploy/` and `docs/` goes into them as it is. The same programs and commit give
the same bytes: names are sorted, and times are that of the commit (`SOURCE_DATE_EPOCH`). Does not know how the programs were
built.
"""

import base64
import csv
import email.utils
import gzip
import hashlib
import io
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import tomllib
import zipfile

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
DEPLOY = ROOT / "deploy"
PROGRAMS = ["metamcp", "keyadm", "metamcp-connect"]
# The oldest glibc that a release needs: that of Ubuntu 22.04 and RHEL 9; Debian 12 has a newer one.
GLIBC = (2, 34)
GLIBC_TEXT = ".".join(map(str, GLIBC))
PLATFORM = f"manylinux_{GLIBC[0]}_{GLIBC[1]}_x86_64"
# Part of every Linux with glibc, and allowed by the platform tag of Python. Any other library would be missing somewhere.
LIBRARIES = {"libc.so.6", "libm.so.6", "libgcc_s.so.1", "ld-linux-x86-64.so.2"}
# The tool that writes the bill of materials.
CYCLONEDX = "0.5.9"
UNITS = ["metamcp.service", "metamcp.socket"]


def main(dist):
    """Packs the programs in the folder `dist` into `dist/packages`."""
    for name in PROGRAMS:
        check_program(dist / name, name)
    os.environ.setdefault("SOURCE_DATE_EPOCH", output(["git", "log", "-1", "--format=%ct"]).strip())
    packages = dist / "packages"
    shutil.rmtree(packages, ignore_errors=True)
    packages.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as work:
        work = pathlib.Path(work)
        run(["cargo", "run", "--locked", "--quiet", "-p", "metamcp-manual", "--", work / "manual"])
        archive(packages, dist, work / "manual")
        debian(packages, dist, work / "manual", work / "debian")
        wheel(packages, dist)
        npm(packages, dist, work / "npm")
        materials(packages, work / "materials")
    sums = "".join(f"{digest(path).hex()}  {path.name}\n" for path in sorted(packages.iterdir()))
    (packages / "SHA256SUMS").write_text(sums)
    for path in sorted(packages.iterdir()):
        print(f"{path}: {path.stat().st_size / 2**20:.1f} MiB")


def version():
    return tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["package"]["version"]


def build_version():
    """Returns what the programs print for `--version`: the version and the commit."""
    commit = output(["git", "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty=-modified"]).strip()
    return f"{version()} ({commit})"


def check_program(path, name):
    """Refuses a program of another version, or one that does not start on the oldest system that a release is for."""
    if not path.is_file():
        sys.exit(f"{path} is missing: build the programs with tools/release")
    told = output([path, "--version"]).split()
    if told[:2] != [name, version()]:
        sys.exit(f"{path} is {' '.join(told)}, and Cargo.toml says {version()}: build the programs again with tools/release")
    symbols = output(["objdump", "-T", path])
    newest = max(tuple(map(int, found.split("."))) for found in re.findall(r"\(GLIBC_([\d.]+)\)", symbols))
    if newest > GLIBC:
        sys.exit(f"{path} needs glibc {'.'.join(map(str, newest))}, a release at most {GLIBC_TEXT}: build it on an older system")
    others = set(re.findall(r"NEEDED +(\S+)", output(["objdump", "-p", path]))) - LIBRARIES
    if others:
        sys.exit(f"{path} needs {', '.join(sorted(others))}, which not every system has: link it statically")


def archive(packages, dist, manual):
    """Writes the archive for people who install by hand."""
    top = f"metamcp-{version()}-linux-x86_64"
    files = {f"bin/{name}": dist / name for name in PROGRAMS}
    files |= {name: ROOT / name for name in ("LICENSE", "README.md", "CHANGELOG.md")}
    files |= below(manual) | {f"docs/{path.name}": path for path in (ROOT / "docs").glob("*.md")}
    files |= {f"systemd/{path.name}": path for path in (DEPLOY / "systemd").iterdir()}
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, path in sorted(files.items()):
            entry = tarfile.TarInfo(f"{top}/{name}")
            entry.size, entry.mtime = path.stat().st_size, epoch()
            entry.mode = 0o755 if name.startswith("bin/") else 0o644
            with path.open("rb") as file:
                tar.addfile(entry, file)
    with (packages / f"{top}.tar.gz").open("wb") as file:
        write_gzip(file, content.getvalue())


def debian(packages, dist, manual, root):
    """Makes the Debian package with dpkg-deb."""
    files = debian_files(dist, manual)
    for name, content in files.items():
        put(root / name, content, 0o755 if name.startswith("usr/bin/") else 0o644)
    kibibytes = sum(map(len, files.values())) // 1024
    put(root / "DEBIAN/control", filled("debian/control", SIZE=str(kibibytes)))
    put(root / "DEBIAN/conffiles", (DEPLOY / "debian/conffiles").read_bytes())
    for script in ("postinst", "prerm", "postrm"):
        put(root / "DEBIAN" / script, (DEPLOY / "debian" / script).read_bytes(), 0o755)
    md5 = {name: hashlib.md5(content, usedforsecurity=False).hexdigest() for name, content in sorted(files.items())}
    put(root / "DEBIAN/md5sums", "".join(f"{sum}  {name}\n" for name, sum in md5.items()).encode())
    for path in [root, *root.rglob("*")]:
        if path.is_dir():
            path.chmod(0o755)
    run(["dpkg-deb", "--root-owner-group", "-Zxz", "--build", root, packages / f"metamcp_{version()}_amd64.deb"])


def debian_files(dist, manual):
    """Returns the content of the files of the Debian package by their paths."""
    share, documents = "usr/share", "usr/share/doc/metamcp"
    paths = {f"usr/bin/{name}": dist / name for name in PROGRAMS}
    paths |= {f"usr/lib/systemd/system/{unit}": DEPLOY / "systemd" / unit for unit in UNITS}
    paths["usr/lib/sysusers.d/metamcp.conf"] = DEPLOY / "systemd/metamcp.sysusers"
    paths["etc/metamcp/metamcp.toml"] = DEPLOY / "debian/metamcp.toml"
    paths |= {f"{documents}/docs/{path.name}": path for path in (ROOT / "docs").glob("*.md")}
    paths |= {f"{documents}/{path.name}": path for path in (ROOT / "README.md", ROOT / "CHANGELOG.md")}
    paths[f"{documents}/examples/http-servers-only.conf"] = DEPLOY / "systemd/http-servers-only.conf"
    paths[f"{share}/lintian/overrides/metamcp"] = DEPLOY / "debian/lintian-overrides"
    for name in PROGRAMS:
        completions = manual / "completions"
        paths[f"{share}/bash-completion/completions/{name}"] = completions / name
        paths[f"{share}/zsh/vendor-completions/_{name}"] = completions / f"_{name}"
        paths[f"{share}/fish/vendor_completions.d/{name}.fish"] = completions / f"{name}.fish"
    files = {name: path.read_bytes() for name, path in paths.items()}
    for path in (manual / "man").iterdir():
        files[f"{share}/man/man1/{path.name}.gz"] = gzipped(path.read_bytes())
    date = email.utils.formatdate(epoch())
    files[f"{documents}/changelog.gz"] = gzipped(filled("debian/changelog", DATE=date))
    files[f"{documents}/copyright"] = debian_copyright().encode()
    return files


def debian_copyright():
    licence = (ROOT / "LICENSE").read_text()
    owner = re.search(r"Copyright \(c\) (.+)", licence)[1]
    text = licence.split(owner)[1].strip()
    indented = "".join(f" {line or '.'}\n" for line in text.splitlines())
    return filled("debian/copyright", COPYRIGHT=owner).decode() + indented


def wheel(packages, dist):
    """Writes the wheel for pip and uv.

    maturin cannot do it: it packs only what it has compiled itself, which would be without the profile, and the programs of
    one crate. The format is PEP 427 and the specification of binary distributions: the programs are `scripts`.
    """
    name = f"metamcp-{version()}"
    info = f"{name}.dist-info"
    files = {f"{name}.data/scripts/{program}": (dist / program).read_bytes() for program in PROGRAMS}
    files[f"{info}/METADATA"] = filled("python/METADATA") + (ROOT / "README.md").read_bytes()
    files[f"{info}/WHEEL"] = filled("python/WHEEL", PLATFORM=PLATFORM)
    files[f"{info}/licenses/LICENSE"] = (ROOT / "LICENSE").read_bytes()
    record = io.StringIO()
    rows = csv.writer(record, lineterminator="\n")
    for path, content in files.items():
        encoded = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        rows.writerow([path, f"sha256={encoded}", len(content)])
    rows.writerow([f"{info}/RECORD", "", ""])
    files[f"{info}/RECORD"] = record.getvalue().encode()
    with zipfile.ZipFile(packages / f"{name}-py3-none-{PLATFORM}.whl", "w", zipfile.ZIP_DEFLATED) as archive:
        for path, content in files.items():
            entry = zipfile.ZipInfo(path, time.gmtime(epoch())[:6])
            entry.external_attr = (0o100755 if "/scripts/" in path else 0o100644) << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, content)


def npm(packages, dist, work):
    """Makes the npm packages: a launcher, and the programs of the one platform that it depends on."""
    main, platform = work / "metamcp", work / "metamcp-linux-x64"
    launcher = (DEPLOY / "npm/metamcp/launch.js").read_bytes()
    for name in PROGRAMS:
        put(main / "bin" / f"{name}.js", launcher, 0o755)
        put(platform / "bin" / name, (dist / name).read_bytes(), 0o755)
    put(main / "README.md", (ROOT / "README.md").read_bytes())
    for folder in (main, platform):
        put(folder / "LICENSE", (ROOT / "LICENSE").read_bytes())
        put(folder / "package.json", filled(f"npm/{folder.name}/package.json"))
        run(["npm", "pack", "--silent", "--pack-destination", packages, folder])


def materials(packages, work):
    """Writes a bill of materials (CycloneDX) for each program, with cargo-cyclonedx."""
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()
    tool = target / "tools/bin/cargo-cyclonedx"
    if not tool.exists():
        run(["cargo", "install", "cargo-cyclonedx", "--version", CYCLONEDX, "--locked", "--root", target / "tools"])
    # It writes beside each manifest, so it gets a copy of the sources.
    work.mkdir()
    for name in output(["git", "ls-files", "-z"]).split("\0"):
        if name.endswith((".rs", ".toml", "Cargo.lock")) and (ROOT / name).exists():
            put(work / name, (ROOT / name).read_bytes())
    command = [tool, "cyclonedx", "--format", "json", "--spec-version", "1.5", "--target", "x86_64-unknown-linux-gnu"]
    subprocess.run([*command, "--quiet"], cwd=work, check=True)
    for name in PROGRAMS:
        found = next(work.rglob(f"{name}.cdx.json"), None)
        if found is None:
            sys.exit(f"cargo-cyclonedx has written no {name}.cdx.json: see its version in tools/lib/packages.py")
        # The folder of the copy says nothing, and differs each time; so does the serial number, which the format does not need.
        bill = json.loads(found.read_text().replace(f"file://{work}", "file:///metamcp"))
        bill.pop("serialNumber", None)
        (packages / f"{name}-{version()}.cdx.json").write_text(json.dumps(bill, indent=1) + "\n")


def filled(template, **values):
    """Returns a file of `deploy/` with its @NAMES@ replaced."""
    text = (DEPLOY / template).read_text()
    for name, value in {"VERSION": version(), "GLIBC": GLIBC_TEXT, **values}.items():
        text = text.replace(f"@{name}@", value)
    if left := re.search(r"@[A-Z_]+@", text):
        sys.exit(f"deploy/{template} has {left[0]}, which tools/lib/packages.py does not fill")
    return text.encode()


def put(path, content, mode=0o644):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(mode)


def below(folder):
    """Returns all files below a folder by their names in it."""
    return {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}


def gzipped(content):
    file = io.BytesIO()
    write_gzip(file, content)
    return file.getvalue()


def write_gzip(file, content):
    # Without a name or a time, so that the bytes depend on the content alone.
    with gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as compressed:
        compressed.write(content)


def digest(path):
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def epoch():
    return int(os.environ["SOURCE_DATE_EPOCH"])


def run(command):
    subprocess.run(command, cwd=ROOT, check=True)


def output(command):
    return subprocess.run(command, cwd=ROOT, check=True, text=True, stdout=subprocess.PIPE).stdout
