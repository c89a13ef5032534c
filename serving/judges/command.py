"""The command that judges answers, a test that the user brings: where its files are, and what their bytes are."""

import hashlib
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from serving.config import BadJob

SCRIPTS = (".py", ".sh", ".js", ".rb", ".pl", ".jar")  # a word that ends so is meant as a file, there or not


@dataclass(frozen=True, slots=True)
class Command:
    words: tuple[str, ...]  # the program and the user's files by their whole paths, else as the job has them
    files: Mapping[str, str]  # of the user's files, by the words that name them, the sha256

    @classmethod
    def find(cls, words: Sequence[str], folder: Path) -> Self:
        """Every word that names a file below or from `folder` is one of the user's. A program without a slash is the
        system's, and found as a shell does.

        Raises:
            BadJob: the program or a script is not there, or cannot be used.
        """
        program, *others = words
        files = {word: folder / word for word in others if _is_file(word, folder)}
        if "/" in program:
            files[program] = _executable(program, folder)
            found = str(files[program])
        else:
            found = _on_path(program)
        whole = (found, *(str(files.get(word, word)) for word in others))
        return cls(whole, {word: _sha256(word, file) for word, file in files.items()})


def _is_file(word: str, folder: Path) -> bool:
    if (folder / word).is_file():
        return True
    if word.endswith(SCRIPTS):
        raise BadJob(f"quality.command names {word}, which is not in {folder}; name a file that is there")
    return False


def _executable(program: str, folder: Path) -> Path:
    file = folder / program
    if not file.is_file():
        raise BadJob(f"quality.command names {program}, which is not in {folder}; name a program that is there")
    if not os.access(file, os.X_OK):
        raise BadJob(f"quality.command names {program}, which may not be run; write chmod +x {program}")
    return file


def _on_path(program: str) -> str:
    found = shutil.which(program)
    if found is None:
        raise BadJob(f"quality.command names {program}, which is not on the PATH; write its path, such as ./{program}")
    return os.path.abspath(found)


def _sha256(word: str, file: Path) -> str:
    try:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise BadJob(
            f"quality.command names {word}, which cannot be read ({error.strerror}); make it readable"
        ) from None
