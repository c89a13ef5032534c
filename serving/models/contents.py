"""What a model folder holds, and whether it may: data of known kinds, links that stay inside, shards that are there.

The kinds are an allow-list, so that a kind of file that can run code and that nobody thought of is refused as well.
"""

import os
from pathlib import Path, PurePath
from typing import NoReturn

from serving.models.json_file import parse, read_object
from serving.models.refusal import listed, unsafe, unusable

# What a loader reads, and what therefore can change an answer.
LOADED = frozenset({".safetensors", ".json", ".jinja", ".txt", ".model", ".spm", ".tiktoken"})
# What no loader looks at: documents, pictures, and the notes of a download.
UNREAD = frozenset(
    {".md", ".rst", ".pdf", ".png", ".jpg", ".jpeg", ".gif", ".webp", ".svg", ".yaml", ".yml", ".metadata", ".lock"}
)
NAMES = ("LICEN", "NOTICE", "README", "COPYING", "USE_POLICY", ".GITATTRIBUTES", ".GITIGNORE", "CACHEDIR.TAG")
MAX_FILES = 10_000
KINDS = "a model may bring safetensors, JSON, templates, vocabularies and documents"


def checked_files(path: Path) -> dict[str, Path]:
    """Relative name -> file, of every file below `path`, sorted by name; nothing in them is executed.

    Raises:
        BadModelFolder: E_MODEL_UNSAFE for a file that may not be there, a link that leaves the folder, a shard or a
            setting that points out of it or asks for code; E_MODEL for a shard that is missing, or damaged JSON.
    """
    files = files_in(path)
    others = [name for name in files if not _is_allowed(PurePath(name))]
    if others:
        raise unsafe(f"{path}: has {listed(others)}; {KINDS}, others can run code: delete them or move them out")
    for name, file in files.items():
        if name.endswith(".index.json"):
            _check_shards(path, name, files)
        elif file.suffix.lower() == ".json":
            parse(file)
    return files


def files_in(path: Path) -> dict[str, Path]:
    """The same without a look at kinds and contents.

    Raises:
        BadModelFolder: a link that leaves the folder, or something that is neither a file nor a folder.
    """
    root = os.path.realpath(path)
    found: dict[str, Path] = {}
    leaving, special = [], []
    for folder, folders, names in os.walk(path, onerror=_raise):
        for entry in (Path(folder, name) for name in (*folders, *names)):
            name = entry.relative_to(path).as_posix()
            if entry.is_symlink() and not os.path.realpath(entry).startswith(root + os.sep):
                leaving.append(name)
            elif entry.is_file():
                found[name] = entry
            elif not entry.is_dir():
                special.append(name)
        if len(found) > MAX_FILES:
            raise unusable(f"{path}: more than {MAX_FILES} files; give the folder of one model")
    if leaving:
        raise unsafe(f"{path}: {listed(leaving)}: links that leave the folder; copy it with `cp -rL` and give the copy")
    if special:
        raise unsafe(f"{path}: {listed(special)}: neither files nor folders; delete them or move them out")
    return dict(sorted(found.items()))


def _raise(error: OSError) -> NoReturn:
    raise error


def _is_allowed(name: PurePath) -> bool:
    return name.suffix.lower() in LOADED | UNREAD or name.name.upper().startswith(NAMES)


def _check_shards(path: Path, index: str, files: dict[str, Path]) -> None:
    shards = read_object(files[index]).get("weight_map")
    if not isinstance(shards, dict):
        raise unusable(f"{path / index}: no weight_map; get the file again")
    named = {str(shard) for shard in shards.values()}
    if stray := [shard for shard in named if not _is_bare_name(shard)]:
        raise unsafe(f"{path / index}: weight_map points to {listed(stray)}; a shard lies beside its index")
    # The index of a format that was left out on purpose may stay; nothing reads it.
    missing = [shard for shard in named if str(PurePath(index).with_name(shard)) not in files]
    if missing and index.endswith(".safetensors.index.json"):
        raise unusable(f"{path / index}: weight_map names {listed(missing)}, which the folder lacks; get them")


def _is_bare_name(shard: str) -> bool:
    return shard not in ("", ".", "..") and not any(character in shard for character in "/\\\0")
