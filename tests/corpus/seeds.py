"""The bad-input corpus: each seed is a file, and the code with which it must be refused, or None if it is good.

Small ones lie in files/; the large and the binary ones are built here. Numbers are those of the list of inputs (B1 to
B40) that the corpus goes back to. rows.jsonl holds a seed a line, with its code on the same line of rows.codes.
"""

import gzip
import io
import os
import socket
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

FILES = Path(__file__).parent / "files"
MIB = 2**20
GOOD = b'{"custom_id": "a", "body": {"messages": [{"role": "user", "content": "hi"}]}}\n'
MANY_VALUES = b'{"id": "many", "prompt": "x", "mine": [' + b'{"":0},' * 1_100_000 + b"0]}\n"
TWO = GOOD + GOOD.replace(b'"a"', b'"b"')


@dataclass(frozen=True, slots=True)
class Seed:
    number: str
    name: str  # of the file; its ending says how it is read
    code: str | None  # of the file, or of every row that is refused; None: all is answered
    make: Callable[[Path], object] | None = None  # puts it at a path; None: it lies in files/
    whole: bool = True  # False: single rows are refused, the others answered
    job: str = ""  # more of [dataset]
    most_s: float = 5.0

    def put(self, folder: Path) -> None:
        if self.make is None:
            (folder / self.name).write_bytes((FILES / self.name).read_bytes())
        else:
            self.make(folder / self.name)


def data(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


def zstd(content: bytes) -> bytes:
    return bytes(pa.Codec("zstd").compress(content, asbytes=True))


def bits_flipped(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 0x10]) + content[place + 1 :]


def parquet(table: pa.Table, **options: object) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    return sink.getvalue()


def sparse(size_bytes: int) -> Callable[[Path], object]:
    """A line that never ends, of NUL, on a disk that keeps none of them."""

    def make(path: Path) -> None:
        with path.open("wb") as file:
            file.truncate(size_bytes)
            file.seek(0, os.SEEK_END)
            file.write(b"\n" + TWO)

    return make


def extension(name: str) -> bytes:
    """A column that asks for code of that name, with a pickle which would not be harmless to read."""
    metadata = {"ARROW:extension:name": name, "ARROW:extension:metadata": b"\x80\x04cos\nsystem\n(S'touch pwned'\ntR."}
    schema = pa.schema([pa.field("id", pa.string()), pa.field("prompt", pa.string(), metadata=metadata)])
    return parquet(pa.table([["a"], ["x"]], schema=schema))


def rows(count: int, text: str = "prompt number") -> pa.Table:
    return pa.table({"id": [f"id-{n}" for n in range(count)], "prompt": [f"{text} {n}" for n in range(count)]})


def bomb(text: str, count: int, **options: object) -> bytes:
    """A few KB that decode to `count` times `text`."""
    ids = pa.array([f"id-{n}" for n in range(count)])
    return parquet(pa.table({"id": ids, "prompt": pa.array([text] * count)}), compression="zstd", **options)


def lone_page(size_bytes: int) -> bytes:
    return parquet(pa.table({"id": ["a"], "prompt": ["x" * size_bytes]}), compression="zstd", use_dictionary=False)


def zipped(name: str) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(name, GOOD)
    return packed.getvalue()


def tarred(kind: bytes = tarfile.REGTYPE) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        member = tarfile.TarInfo("/etc/cron.d/x")
        member.type, member.linkname = kind, "/etc/passwd"
        archive.addfile(member)
    return packed.getvalue()


def listening(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # the name of a socket may be no longer than 107 characters
    try:
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(path.name)
    finally:
        os.chdir(here)


def link_to(target: str) -> Callable[[Path], object]:
    return lambda path: path.symlink_to(target)


def link_out(path: Path) -> None:
    outside = path.parent.parent / f"{path.parent.name}-outside.jsonl"
    outside.write_bytes(GOOD)
    path.symlink_to(outside)


SMALL = [
    Seed("B1", "empty.jsonl", "E_EMPTY"),
    Seed("B1", "empty.csv", "E_EMPTY"),
    Seed("B2", "blank.jsonl", "E_EMPTY"),
    Seed("B2", "header.csv", "E_EMPTY"),
    Seed("B3", "no_newline.jsonl", None),
    Seed("B4", "crlf.jsonl", None),
    Seed("B5", "bom.jsonl", None),
    Seed("B5", "two_boms.jsonl", "E_JSON", whole=False),
    Seed("B6", "utf16.jsonl", "E_UTF8"),
    Seed("B12", "dup_id.jsonl", "E_DUPID"),
    Seed("B20", "array.jsonl", "E_ROW_TYPE", whole=False),
    Seed("B20", "array_pretty.jsonl", "E_JSON", whole=False),
    Seed("B27", "empty.parquet", "E_PARQUET"),
    Seed("B27", "three_bytes.parquet", "E_PARQUET"),
    Seed("B27", "magic_only.parquet", "E_PARQUET"),
    Seed("B27", "wrong_magic.parquet", "E_PARQUET"),
    Seed("B27", "lying_footer.parquet", "E_PARQUET"),
    Seed("B33", "newline_in_quotes.csv", None),
    Seed("B33", "bom.csv", None),
    Seed("B33", "open_quote.csv", "E_CSV"),
    Seed("B33", "quote_junk.csv", "E_CSV"),
    Seed("B33", "lone_cr.csv", "E_CSV"),
    Seed("B33", "dup_header.csv", "E_CSV"),
    Seed("B33", "ragged.csv", "E_CSV", whole=False),
    Seed("B33", "semicolon.csv", "E_CSV"),
    Seed("B33", "tab.csv", "E_CSV"),
    Seed("B33", "latin1.csv", "E_UTF8"),
    Seed("B34", "formulas.csv", None),
]
BUILT = [
    Seed("B17", "long_line.jsonl", "E_LINE_TOO_LONG", data(b'{"a": "' + b"x" * 20 * MIB + b'"}\n' + TWO), whole=False),
    Seed("B17", "huge_line.jsonl", "E_LINE_TOO_LONG", sparse(2**31), whole=False, most_s=45),
    # 3.5 s alone; over 5 s of CPU were seen while other tests kept the memory busy.
    Seed("B16", "many_values.jsonl", None, data(MANY_VALUES + TWO), most_s=10),
    Seed("B27", "torn.parquet", "E_PARQUET", data(parquet(rows(100))[:-200])),
    Seed(
        "B28",
        "flipped.parquet",
        "E_PARQUET",
        data(bits_flipped(parquet(rows(1000), write_page_checksum=True), 2000)),
    ),
    Seed("B29", "bomb.parquet", "E_RATIO", lambda path: path.write_bytes(bomb("x" * 1000, 200_000))),
    Seed("B29", "wide_bomb.parquet", "E_RATIO", lambda path: path.write_bytes(bomb("x" * MIB, 400))),
    Seed("B29", "page_bomb.parquet", "E_RATIO", lambda path: path.write_bytes(lone_page(256 * MIB))),
    Seed(
        "B29",
        "null_bomb.parquet",
        "E_RATIO",
        lambda path: path.write_bytes(parquet(pa.table({"prompt": pa.nulls(20_000_000, pa.bool_())}))),
    ),
    Seed("B30", "no_columns.parquet", "E_PARQUET_SCHEMA", data(parquet(pa.table({})))),
    Seed(
        "B30",
        "twice.parquet",
        "E_PARQUET_SCHEMA",
        data(parquet(pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["id", "id"]))),
    ),
    Seed("B30", "py_extension.parquet", "E_PARQUET_SCHEMA", data(extension("arrow.py_extension_type"))),
    Seed("B30", "ray_tensor.parquet", "E_PARQUET_SCHEMA", data(extension("ray.data.arrow_tensor"))),
    Seed(
        "B30",
        "nested.parquet",
        "E_PROMPT",
        data(parquet(pa.table({"id": ["a"], "prompt": [[{"deep": ["x"]}]]}))),
        whole=False,
    ),
    Seed("B31", "good.jsonl.gz", None, data(gzip.compress(TWO))),
    Seed("B31", "members.jsonl.gz", None, data(gzip.compress(GOOD[:30]) + gzip.compress(GOOD[30:]))),
    Seed("B31", "bomb.jsonl.gz", "E_RATIO", lambda path: path.write_bytes(gzip.compress(GOOD * (52 * MIB // 78)))),
    Seed("B31", "nested.jsonl.gz", "E_GZIP", data(gzip.compress(gzip.compress(TWO)))),
    Seed("B31", "nested.jsonl.gz.gz", "E_GZIP", data(gzip.compress(gzip.compress(TWO)))),
    Seed("B31", "junk.jsonl.gz", "E_GZIP", data(gzip.compress(TWO) + b"junk")),
    Seed("B31", "crc.jsonl.gz", "E_GZIP", data(bits_flipped(gzip.compress(TWO), -6 + len(gzip.compress(TWO))))),
    Seed("B31", "torn.jsonl.gz", "E_GZIP", data(gzip.compress(TWO)[:-4])),
    Seed("B31", "plain.jsonl.gz", "E_GZIP", data(TWO)),
    Seed("B31", "packed.jsonl", "E_GZIP", data(gzip.compress(TWO))),
    Seed("B31", "good.csv.zst", None, data(zstd(b"id,prompt\na,x\n") + zstd(b"b,y\n"))),
    Seed("B31", "bomb.jsonl.zst", "E_RATIO", lambda path: path.write_bytes(zstd(GOOD * (52 * MIB // 78)))),
    Seed("B31", "torn.jsonl.zst", "E_ZSTD", data(zstd(TWO)[:-4])),
    Seed("B31", "junk.jsonl.zst", "E_ZSTD", data(zstd(TWO) + b"junk")),
    Seed("B31", "packed.csv", "E_ZSTD", data(zstd(TWO))),
    Seed("B32", "slip.zip", "E_ARCHIVE", data(zipped("../../slip.jsonl"))),
    Seed("B32", "slip.jsonl", "E_ARCHIVE", data(zipped("../../slip.jsonl"))),
    Seed("B32", "link.tar", "E_ARCHIVE", data(tarred(tarfile.SYMTYPE))),
    Seed("B32", "device.jsonl", "E_ARCHIVE", data(tarred(tarfile.CHRTYPE))),
    Seed("B32", "tar.jsonl.gz", "E_ARCHIVE", data(gzip.compress(tarred()))),
    Seed("B33", "tab_said.csv", None, data(b"id\tprompt\na\thello\n"), job='delimiter = "\\t"'),
    Seed("B33", "long_cell.csv", None, data(b"id,prompt\na," + b"long " * 40_000 + b"\n")),
    Seed("B33", "endless_row.csv", "E_CSV", data(b"id,prompt\na,x\nb," + b'"x\n' + b"some words in a cell\n" * MIB)),
    Seed("B35", "folder.jsonl", "E_PATH", Path.mkdir),
    Seed("B35", "pipe.jsonl", "E_PATH", os.mkfifo),
    Seed("B35", "socket.jsonl", "E_PATH", listening),
    Seed("B35", "zero.jsonl", "E_PATH", link_to("/dev/zero")),
    Seed("B35", "memory.jsonl", "E_PATH", link_to("/proc/self/mem")),
    Seed("B35", "dangling.jsonl", "E_PATH", link_to("nothing.jsonl")),
    Seed("B35", "loop.jsonl", "E_PATH", link_to("loop.jsonl")),
    Seed("B35", "out.jsonl", "E_PATH", link_out),
    Seed("B35", "missing.jsonl", "E_PATH", lambda path: None),
]
SEEDS = [*SMALL, *BUILT]


def row_seeds() -> list[tuple[str, str, bytes]]:
    """Number, code ("ok" of a good one) and bytes of each line of rows.jsonl."""
    codes = (FILES / "rows.codes").read_text(encoding="ascii").splitlines()
    lines = (FILES / "rows.jsonl").read_bytes().split(b"\n")
    return [(*code.split(), line) for code, line in zip(codes, lines, strict=True)]  # type: ignore[misc]
