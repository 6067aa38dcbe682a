"""Keeps the files of others that the service hands to browsers: fetches them from npm, and checks them by hash.

    python -m tools.vendor                             fetches every file again, as the manifest says
    python -m tools.vendor --check                     checks the files that are there; needs no network
    python -m tools.vendor PACKAGE@VERSION [FILE …]    adds a package or renews it; without FILE, the files that it has

The manifest is `app/vendored/manifest.json`. FILE is a path in the package. The package's `package.json` (by which
scanners of the image find it) and its licence come along. A row in docs/dependencies.md says what it is for.
"""

import argparse
import hashlib
import io
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENDORED = ROOT / "app/vendored"
MANIFEST = "manifest.json"
_LICENCE_NAMES = ("LICENSE", "LICENCE", "NOTICE", "COPYING")


class VendorFault(Exception):
    """A file is missing, changed or not allowed."""


@dataclass(frozen=True, slots=True)
class Package:
    """A package of the manifest: its version, its licence, and the SHA-256 of each of its files."""

    version: str
    licence: str
    files: dict[str, str]


def read_manifest(folder: Path) -> dict[str, Package]:
    """Reads the packages by name; none if there is no manifest yet."""
    path = folder / MANIFEST
    return {name: Package(**entry) for name, entry in json.loads(path.read_text()).items()} if path.exists() else {}


def write_manifest(folder: Path, packages: Mapping[str, Package]) -> None:
    """Writes the packages, sorted by name."""
    entries = {name: asdict(package) for name, package in sorted(packages.items())}
    (folder / MANIFEST).write_text(json.dumps(entries, indent=2) + "\n")


def faults(folder: Path) -> Iterator[str]:
    """Yields each difference between a folder and its manifest."""
    packages = read_manifest(folder)
    expected = {
        f"{name}/{file}": digest for name, package in packages.items() for file, digest in package.files.items()
    }
    present = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} - {MANIFEST}
    yield from (f"{file}: missing" for file in sorted(expected.keys() - present))
    yield from (f"{file}: not in the manifest" for file in sorted(present - expected.keys()))
    for file in sorted(present & expected.keys()):
        if _sha256((folder / file).read_bytes()) != expected[file]:
            yield f"{file}: other content than the manifest says"


def fetch(name: str, version: str) -> dict[str, bytes]:
    """Downloads a package with npm, which checks it against the registry's own hash; returns its files by path."""
    with tempfile.TemporaryDirectory() as scratch:
        command = ["npm", "pack", f"{name}@{version}", "--silent", "--ignore-scripts", "--pack-destination", scratch]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)  # noqa: S603
        (tarball,) = Path(scratch).iterdir()
        return _unpacked(tarball.read_bytes())


def _unpacked(tarball: bytes) -> dict[str, bytes]:
    files = {}
    with tarfile.open(fileobj=io.BytesIO(tarball)) as archive:
        for member in archive:
            content = archive.extractfile(member) if member.isfile() else None
            if content is not None:
                files[member.name.partition("/")[2]] = content.read()
    return files


def select(fetched: Mapping[str, bytes], wanted: list[str]) -> dict[str, bytes]:
    """Takes the wanted files of a package, and what has to go with them.

    Raises:
        VendorFault: a file is not in the package, or the package has no licence.
    """
    if missing := [file for file in wanted if file not in fetched]:
        raise VendorFault(f"not in the package: {', '.join(missing)}")
    licences = [file for file in fetched if file.upper().startswith(_LICENCE_NAMES)]
    if not licences:
        raise VendorFault("the package has no licence, and may not be shipped")
    texts = [f"{file}.LICENSE.txt" for file in wanted]  # as webpack puts the licences of what it has bundled
    along = ["package.json", *licences, *(file for file in texts if file in fetched)]
    return {file: fetched[file] for file in sorted({*wanted, *along})}


def vendor(folder: Path, name: str, version: str, wanted: list[str]) -> None:
    """Adds a package or renews it, in its folder and in the manifest."""
    packages = read_manifest(folder)
    if not wanted and name in packages:
        wanted = list(packages[name].files)
    if not wanted:
        raise VendorFault(f"name the files of {name}")
    files = select(fetch(name, version), wanted)
    metadata = json.loads(files["package.json"])
    digests = {file: _sha256(content) for file, content in files.items()}
    packages[name] = Package(metadata["version"], metadata["license"], digests)
    shutil.rmtree(folder / name, ignore_errors=True)
    _write(folder / name, files)
    write_manifest(folder, packages)


def restore(folder: Path) -> None:
    """Fetches every file of the manifest again.

    Raises:
        VendorFault: a file has other content than the manifest says. Nothing is written of its package then.
    """
    for name, package in read_manifest(folder).items():
        fetched = fetch(name, package.version)
        for file, digest in package.files.items():
            if _sha256(fetched.get(file, b"")) != digest:
                raise VendorFault(f"{name}@{package.version}: {file} has other content than the manifest says")
        _write(folder / name, {file: fetched[file] for file in package.files})


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    for file, content in files.items():
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def main(arguments: list[str]) -> str | None:
    """Does what the arguments say; returns the fault, if there is one."""
    parser = argparse.ArgumentParser(prog="vendor")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("package", nargs="?", metavar="PACKAGE@VERSION")
    parser.add_argument("files", nargs="*", metavar="FILE")
    options = parser.parse_args(arguments)
    try:
        if options.package:
            name, _, version = options.package.rpartition("@")
            if not name or not version:
                return "vendor: name a version: PACKAGE@VERSION"
            vendor(VENDORED, name, version, options.files)
        elif not options.check:
            restore(VENDORED)
    except VendorFault as fault:
        return f"vendor: {fault}"
    return "\n".join(faults(VENDORED)) or None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
