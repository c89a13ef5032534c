"""Mutations of the corpus: for each number one input, always the same, that nobody has thought of."""

import functools
import gzip
import random

from tests.corpus.seeds import FILES, GOOD, SMALL, TWO, parquet, row_seeds, rows, zstd

# Bytes that mean something to one of the parsers.
TOKENS = (
    b"{", b"}", b"[", b"]", b'"', b"\\", b",", b":", b"\n", b"\r", b"\r\n", b"\0", b"\xef\xbb\xbf", b"\xff",
    b"\xc0\xaf",
    b"\\ud800", b"\\u0000", b"NaN", b"-Infinity", b"1e999", b"9" * 400, b"null", b"true", b"[" * 300, b'{"a":' * 300,
    b'"messages"', b'"body"', b'"custom_id"', b'"response_format"', b'"n": 99999', b"{{", b"{%", b"\x1f\x8b", b"PAR1",
    b"PK\x03\x04", b"\x28\xb5\x2f\xfd", b"\x80", b"\x7f\xff\xff\xff", b"\xff\xff\xff\xff", b";", b"\t", b"'", b'""',
)  # fmt: skip


def mutated(number: int) -> tuple[str, bytes]:
    """The name and the content of mutation `number`."""
    dice = random.Random(number)
    name, content = dice.choice(_bases())
    for _ in range(dice.choice((1, 1, 1, 2, 3, 8))):
        content = _mutation(content, dice)
    return name, content


def mutations(seed_bytes: bytes, seed: int) -> bytes:
    """One mutation of these bytes: some flipped, cut off, put in or spliced with others."""
    return _mutation(seed_bytes, random.Random(seed))


@functools.cache
def _bases() -> list[tuple[str, bytes]]:
    small = [(seed.name, (FILES / seed.name).read_bytes()) for seed in SMALL]
    lines = [("rows.jsonl", line + b"\n" + TWO) for _, _, line in row_seeds()]
    table = rows(40)
    packed = [
        ("good.jsonl.gz", gzip.compress(TWO, mtime=0)),
        ("good.jsonl.zst", zstd(TWO)),
        ("plain.parquet", parquet(table, compression="none")),
        ("zstd.parquet", parquet(table, compression="zstd")),
        ("checked.parquet", parquet(table, write_page_checksum=True)),
        ("good.jsonl", GOOD),
    ]
    return [*small, *lines, *packed * 5]


def _mutation(content: bytes, dice: random.Random) -> bytes:
    place = dice.randint(0, len(content))
    kind = dice.randrange(6)
    if kind == 0 and content:  # a bit
        place %= len(content)
        return content[:place] + bytes([content[place] ^ (1 << dice.randrange(8))]) + content[place + 1 :]
    if kind == 1:  # the end
        return content[:place]
    if kind == 2:  # something in it
        return content[:place] + dice.choice(TOKENS) + content[place:]
    if kind == 3:  # something in place of it
        token = dice.choice(TOKENS)
        return content[:place] + token + content[place + len(token) :]
    if kind == 4:  # a part twice
        end = min(len(content), place + dice.randint(1, 64))
        return content[:end] + content[place:end] * dice.randint(1, 20) + content[end:]
    _, other = dice.choice(_bases())  # the rest of another
    return content[:place] + other[dice.randint(0, len(other)) :]
