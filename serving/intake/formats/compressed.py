"""The bytes of a file as its rows are written in them: unpacked, counted against a budget, hashed on the way.

Memory is flat: a block of the file and a block of what it decodes to.
"""

import io
import zlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from serving.intake.files import BadInput, InputFile
from serving.intake.formats.raw import Reading

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

BUFFER_BYTES = 2**18
# To gzip by the piece: what follows the end of a member is copied, and a member may have 20 bytes.
PIECE_BYTES = 2**14
GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
# What a file begins with that is none of ours, or is not what its name says.
ARCHIVES = {b"PK\x03\x04": "a zip", b"PK\x05\x06": "a zip", b"7z\xbc\xaf": "a 7z", b"Rar!\x1a": "a rar"}
PACKED = {GZIP: ("E_GZIP", "gzip", ".gz"), ZSTD: ("E_ZSTD", "zstd", ".zst")}
STRANGE = {
    b"BZh91AY": ("E_ARCHIVE", "bzip2 data; unpack it, or pack it as .gz or .zst"),
    b"\xfd7zXZ": ("E_ARCHIVE", "xz data; unpack it, or pack it as .gz or .zst"),
    b"PAR1\x15": ("E_PARQUET", "Parquet data; name it .parquet"),
    b"ARROW1\0": ("E_PARQUET", "an Arrow file; save it as Parquet"),
    b"\xff\xfe{\0": ("E_UTF8", "UTF-16 text from byte 0 on; save it as UTF-8"),
    b"\xfe\xff\0{": ("E_UTF8", "UTF-16 text from byte 0 on; save it as UTF-8"),
}
TAR_MAGIC_AT = 257


def open_text(file: InputFile, blocks: Iterator[bytes], reading: Reading) -> io.BufferedReader:
    """The decoded bytes of `blocks`, which are those of `file`.

    A packed file is unpacked twice, the first time only to see that it is whole and no bomb: a row takes a hundred
    times as long to judge as to unpack, and of a file that is refused none should be judged.

    Raises:
        BadInput: also from every read: what stands there is not what the name says, broken, or a bomb.
    """
    unpack = next((unpack for ending, unpack in UNPACK.items() if file.name.lower().endswith(ending)), None)
    if unpack is None:
        head, blocks = _peeked(blocks)
        refuse_by_head(file, head)
    else:
        _must_be_packed(file, _peeked(file.blocks())[0])
        inside, unpacked = _peeked(_within_budget(file, unpack(file, file.blocks()), reading))
        refuse_by_head(file, inside, inside=True)
        for _ in unpacked:
            pass
        blocks = unpack(file, blocks)
    return io.BufferedReader(_Blocks(blocks), BUFFER_BYTES)


class _Blocks(io.RawIOBase):
    """Blocks of any size, read as a file."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        into = memoryview(buffer).cast("B")
        while not self._rest:
            block = next(self._blocks, None)
            if block is None:
                return 0
            self._rest = memoryview(block)
        count = min(len(into), len(self._rest))
        into[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count


def _peeked(blocks: Iterator[bytes]) -> tuple[bytes, Iterator[bytes]]:
    """How the blocks begin, enough for any mark by which a kind of file is known; and all of them."""
    head = b""
    for block in blocks:
        head += block
        if len(head) >= 512:
            break
    return head, _chained(head, blocks)


def _chained(head: bytes, blocks: Iterator[bytes]) -> Iterator[bytes]:
    if head:
        yield head
    yield from blocks


def _must_be_packed(file: InputFile, head: bytes) -> None:
    if not head:
        raise BadInput("E_EMPTY", f"{file.name}: empty; name a file with rows")
    _refuse_archive(file, head)
    for mark, (code, what, ending) in PACKED.items():
        # A frame of zstd may be one to skip, of which the mark is 184D2A5 and a digit.
        packed = head.startswith(mark) or (mark == ZSTD and head[1:4] == b"\x2a\x4d\x18")
        if file.name.lower().endswith(ending) and not packed:
            raise BadInput(code, f"{file.name}: not {what} data; take {ending} off its name, or get the file again")


def refuse_by_head(file: InputFile, head: bytes, inside: bool = False) -> None:
    _refuse_archive(file, head)
    for mark, (code, what, ending) in PACKED.items():
        if head.startswith(mark):
            way = "unpack it once" if inside else f"name it {file.name}{ending}"
            raise BadInput(code, f"{file.name}: {f'{what} data inside' if inside else f'{what} data'}; {way}")
    for mark, (code, what) in STRANGE.items():
        if head.startswith(mark):
            raise BadInput(code, f"{file.name}: {what}")


def _refuse_archive(file: InputFile, head: bytes) -> None:
    what = next((what for mark, what in ARCHIVES.items() if head.startswith(mark)), None)
    if what is None and head[TAR_MAGIC_AT : TAR_MAGIC_AT + 5] == b"ustar":
        what = "a tar"
    if what is not None:
        raise BadInput("E_ARCHIVE", f"{file.name}: {what} archive; unpack it and name the files in it")


def _within_budget(file: InputFile, blocks: Iterator[bytes], reading: Reading) -> Iterator[bytes]:
    most = reading.decoded_bytes_at_most(file.size_bytes)
    decoded_bytes = 0
    for block in blocks:
        decoded_bytes += len(block)
        if decoded_bytes > most:
            raise BadInput("E_RATIO", f"{file.name}: {reading.too_much(file.size_bytes)}")
        yield block


def _gunzipped(file: InputFile, blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Every member, one after the other. zlib checks each one's CRC and length."""
    member = zlib.decompressobj(wbits=31)
    try:
        for rest in _pieces(blocks):
            while rest:
                if member.eof:
                    member = zlib.decompressobj(wbits=31)
                if decoded := member.decompress(rest, BUFFER_BYTES):
                    yield decoded
                rest = member.unused_data if member.eof else member.unconsumed_tail
        while decoded := b"" if member.eof else member.decompress(b"", BUFFER_BYTES):
            yield decoded
    except zlib.error as error:
        raise BadInput("E_GZIP", f"{file.name}: broken gzip data ({error}); get the file again") from None
    if not member.eof:
        raise BadInput("E_GZIP", f"{file.name}: gzip data that is cut off; get the file again")


def _pieces(blocks: Iterator[bytes]) -> Iterator[bytes]:
    for block in blocks:
        for start in range(0, len(block), PIECE_BYTES):
            yield block[start : start + PIECE_BYTES]


def _unzstd(file: InputFile, blocks: Iterator[bytes]) -> Iterator[bytes]:
    import pyarrow as pa

    try:
        with pa.CompressedInputStream(pa.PythonFile(_Blocks(blocks), mode="r"), "zstd") as stream:
            while decoded := stream.read(BUFFER_BYTES):
                yield decoded
    except (pa.ArrowException, OSError) as error:
        raise BadInput("E_ZSTD", f"{file.name}: broken zstd data ({error}); get the file again") from None


UNPACK: dict[str, Callable[[InputFile, Iterator[bytes]], Iterator[bytes]]] = {".gz": _gunzipped, ".zst": _unzstd}
