"""The hashes of model files, remembered in the state folder. What a model folder says about itself is not believed.

A remembered hash counts while the file is the same by device, inode, size, time of change and ctime. A program can set
the time of change to what it likes; the ctime is set by the kernel alone.
"""

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from serving.digest import sha256_of
from serving.environment import own_folder

FILE = "hashes.json"
SETTLED_S = 2.0  # a file that changed more recently could change again within one tick of the file system's clock


def sha256_of_each(files: Mapping[str, Path]) -> dict[str, str]:
    """Name -> sha256. Every file is read whole unless it is remembered; outside the command nothing is."""
    folder = own_folder()
    remembered = {} if folder is None else _read(folder / FILE)
    hashes, learnt = {}, False
    for name, file in files.items():
        place, seen = os.path.realpath(file), _look(file)
        if remembered.get(place, {}).get("seen") == seen:
            hashes[name] = str(remembered[place]["sha256"])
            continue
        hashes[name] = sha256_of(file)
        if seen == _look(file) and time.time() - file.stat().st_ctime >= SETTLED_S:
            remembered[place] = {"seen": seen, "sha256": hashes[name]}
            learnt = True
    if folder is not None and learnt:
        _write(folder / FILE, {place: entry for place, entry in remembered.items() if os.path.exists(place)})
    return hashes


def _look(file: Path) -> list[int]:
    stat = file.stat()
    return [stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]


def _read(file: Path) -> dict[str, Any]:
    """What is remembered; nothing, where the file is missing or damaged."""
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    entries = content.items() if isinstance(content, dict) else ()
    return {place: entry for place, entry in entries if isinstance(entry, dict) and {"seen", "sha256"} <= entry.keys()}


def _write(file: Path, content: dict[str, Any]) -> None:
    aside = file.with_name(f".{FILE}.{os.getpid()}.writing")
    try:
        aside.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        os.replace(aside, file)
    except OSError:
        pass  # it would have saved time, no more
