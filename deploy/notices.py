"""Writes the licences of every package in a virtual environment: `python notices.py ENVIRONMENT > NOTICES`.

The packages from npm come along, whose files the service hands to browsers.
Of the standard library alone, since it runs while the image is built, before anything but that environment is there.
"""

import json
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, distributions
from pathlib import Path

OWN = ("poolshift", "poolshift-service")
VENDORED = Path(__file__).resolve().parents[1] / "app/vendored"
_TEXTS = ("LICEN", "NOTICE", "COPYING")
_RULE = "=" * 80
_CLASSIFIER = "License :: "


class UnstatedLicence(Exception):
    """A package says nowhere what it may be used for: it cannot be shipped before someone has asked."""


def notices(environment: Path) -> str:
    """One section for each package: name, version, licence, and the texts that it ships.

    Raises:
        UnstatedLicence: names the package.

    """
    packages = sorted(_packages(environment), key=lambda package: package.name.lower())
    return "\n".join([*(_section(package) for package in packages), *_vendored(VENDORED)])


def licence_of(package: Distribution) -> str:
    """The licence that a package's metadata states (PEP 639, else as was usual before). Raises UnstatedLicence."""
    if expressions := _field(package, "License-Expression"):
        return expressions[0]
    named = [line.rpartition(" :: ")[2] for line in _field(package, "Classifier") if line.startswith(_CLASSIFIER)]
    if named:
        return ", ".join(named)
    if texts := _field(package, "License"):
        return texts[0].strip().splitlines()[0]
    raise UnstatedLicence(f"{package.name} {package.version} states no licence")


def _field(package: Distribution, name: str) -> list[str]:
    return package.metadata.get_all(name) or []


def _packages(environment: Path) -> Iterator[Distribution]:
    site_packages = [str(path) for path in environment.glob("lib/python*/site-packages")]
    return (package for package in distributions(path=site_packages) if package.name not in OWN)


def _vendored(folder: Path) -> Iterator[str]:
    """Yields the sections of the packages from npm, as their manifest has them."""
    for name, package in json.loads((folder / "manifest.json").read_text()).items():
        files = (folder / name / file for file in package["files"])
        texts = (file.read_text() for file in files if file.name.startswith(_TEXTS) or ".LICENSE." in file.name)
        yield _shown(name, package["version"], package["licence"], texts)


def _section(package: Distribution) -> str:
    return _shown(package.name, package.version, licence_of(package), _texts(package))


def _shown(name: str, version: str, licence: str, texts: Iterable[str]) -> str:
    heading = f"{_RULE}\n{name} {version}\n{licence}\n{_RULE}\n"
    return heading + "".join(f"\n{text.strip()}\n" for text in texts)


def _texts(package: Distribution) -> Iterator[str]:
    named = set(_field(package, "License-File"))
    for file in package.files or []:
        if ".dist-info" not in file.parts[0]:
            continue
        inside = "/".join(file.parts[1:])
        if inside.removeprefix("licenses/") in named or file.name.upper().startswith(_TEXTS):
            yield Path(str(file.locate())).read_text(errors="replace")


if __name__ == "__main__":
    try:
        sys.stdout.write(notices(Path(sys.argv[1])))
    except UnstatedLicence as error:
        sys.exit(f"notices: {error}")
