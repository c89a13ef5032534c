"""The docs say what is so: links lead somewhere, commands are ones that there are, keys are those of the job file."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from flows.cli import command_line
from serving.config import Job, Section
from serving.key_table import table, within
from serving.store.ledger import named_queries

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "datasets/README.md"])
LINK = re.compile(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)")
BLOCK = re.compile(r"^```\w*\n(.*?)^```", re.M | re.S)
INLINE = re.compile(r"`([^`\n]+)`")
PLACEHOLDERS = {
    "JOB.toml": "job.toml",
    "MODEL": "m",
    "HARDWARE": "h",
    "ROWS.csv": "r.csv",
    "NAME": "by-run",
    "RUN": "latest",
}
BARE = {"plan", "calibrate", "run", "explain", "predict", "schedule", "models", "models quantize"}  # without arguments


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", BLOCK.sub("", page.read_text(encoding="utf-8")), re.M)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target, anchor in LINK.findall(page.read_text(encoding="utf-8")):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        there = (page.parent / target).resolve() if target else page
        assert there.exists(), f"{name_of(page)} links to {target}"
        if anchor and there.suffix == ".md":
            assert anchor in anchors(there), f"{name_of(page)} links to {target}#{anchor}"


def commands(page: Path) -> Iterator[str]:
    """Whole command lines of gristmill's in blocks, and those in running text that name what they work on."""
    text = page.read_text(encoding="utf-8")
    for block in BLOCK.findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            if line.startswith("gristmill ") and "  finished" not in line and "  planned" not in line:
                yield line
    for said in INLINE.findall(BLOCK.sub("", text)):
        if (
            said.startswith("gristmill ")
            and "..." not in said
            and "[" not in said
            and "|" not in said
            and "`" not in said
        ):
            yield said


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_is_one_that_there_is(page: Path) -> None:
    known = named_queries()
    for line in commands(page):
        words = shlex.split(line, comments=True)[1:]
        words = [PLACEHOLDERS.get(word, word) for word in words if not word.startswith("runs/")]
        if " ".join(words) in BARE:
            continue
        try:
            told = command_line().parse_args(words)
        except SystemExit:
            raise AssertionError(f"{name_of(page)}: {line}") from None
        if getattr(told, "name", None) is not None and words[0] == "costs":
            assert told.name in known, f"{name_of(page)}: {line}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_bench_and_make_target_is_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    for bench in re.findall(r"`(?:python )?(bench/\w+\.py)", text):
        assert (ROOT / bench).is_file(), f"{name_of(page)}: {bench}"
    for target in re.findall(r"`make ([a-z-]+)[` ]", text):
        assert target in targets, f"{name_of(page)}: make {target}"


def test_the_keys_of_the_job_file_are_described_by_the_code_that_checks_them() -> None:
    """`make docs` writes them anew."""
    page = (ROOT / "docs/job-file.md").read_text(encoding="utf-8")
    assert within(page) == page
    for line in table().splitlines()[2:]:
        key, values, default, meaning = line.strip("| ").split(" | ")
        assert values, key
        assert default, key
        assert meaning, key


def test_a_key_without_a_word_of_meaning_is_seen() -> None:
    undescribed = [
        f"{section}.{name}"
        for section, holder in Job.model_fields.items()
        for name, field in cast("type[Section]", holder.annotation).model_fields.items()
        if not field.description
    ]
    assert not undescribed
