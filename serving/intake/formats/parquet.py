"""Parquet, of which nothing is believed: a footer may lie about sizes, so what is decoded is measured as it comes."""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from serving.intake.bad_row import BadRow
from serving.intake.files import BadInput, InputFile
from serving.intake.formats.compressed import refuse_by_head
from serving.intake.formats.raw import RawRow, Reading
from serving.intake.shown import escaped, listed
from serving.intake.strict_json import MAX_LINE_BYTES

MAGIC = b"PAR1"
# Rows at a time. A batch that does not fit the memory of this process is tried again in smaller ones.
BATCH_ROWS = (1024, 16, 1)
ROW_BYTES = 64  # what a row counts for beside its values: one of nothing but nulls takes its time too
BUFFER_BYTES = 2**16
MAX_FOOTER_TEXT_BYTES, MAX_FOOTER_ITEMS = 16 * 2**20, 1_000_000
EXTENSION = b"ARROW:extension:name"
NOT_PARQUET = "not readable as Parquet"


def read_parquet(file: InputFile, opened: Any, reading: Reading) -> Iterator[RawRow]:
    """Every row, one that Python cannot hold as a fault; `line` is its number.

    Raises:
        BadInput: not Parquet, broken, a column that cannot be read safely, or a bomb.
    """
    _check_beginning(file, opened)
    try:
        _check_schema(file.name, _parquet_file(opened).schema_arrow)
        batch_rows = _measured(file, opened, reading)
        number = 0
        for batch in _batches(opened, batch_rows):
            for value in _values(batch):
                number += 1
                fault = value if isinstance(value, BadRow) else None
                yield RawRow(file.name, number, None if isinstance(value, BadRow) else value, fault)
    except BadInput:
        raise
    except MemoryError:
        reason = "a single row or page decodes to more than fits, whatever dataset.max_ratio allows; write smaller ones"
        raise BadInput("E_RATIO", f"{file.name}: {reason}") from None
    except (pa.ArrowException, OSError, ValueError) as error:
        why = escaped((str(error).splitlines() or [type(error).__name__])[0], 200)
        raise BadInput("E_PARQUET", f"{file.name}: {NOT_PARQUET}: {why}; write the file again") from None


def _parquet_file(opened: Any) -> pq.ParquetFile:
    return pq.ParquetFile(
        opened,
        memory_map=False,
        buffer_size=BUFFER_BYTES,
        pre_buffer=False,
        page_checksum_verification=True,
        arrow_extensions_enabled=False,
        thrift_string_size_limit=MAX_FOOTER_TEXT_BYTES,
        thrift_container_size_limit=MAX_FOOTER_ITEMS,
    )


def _check_beginning(file: InputFile, opened: Any) -> None:
    head = opened.read(512)
    if head[: len(MAGIC)] != MAGIC:
        refuse_by_head(file, head)
        raise BadInput("E_PARQUET", f"{file.name}: {NOT_PARQUET}: it does not begin with PAR1; get the file again")
    opened.seek(0)


def _check_schema(name: str, schema: pa.Schema) -> None:
    if not schema.names:
        raise BadInput("E_PARQUET_SCHEMA", f"{name}: no columns; write a file with some")
    if twice := _twice(schema.names):
        raise BadInput("E_PARQUET_SCHEMA", f"{name}: column {listed(twice)} stands twice; give each its own name")
    for field in schema:
        if (kind := _extension(field)) is not None:
            reason = f"column {escaped(field.name)} is of the extension type {escaped(kind)}, which is never loaded"
            raise BadInput("E_PARQUET_SCHEMA", f"{name}: {reason}; save it as a plain column, or leave it out")
        if any(_is_dictionary(inner) for inner in _inner(field.type)):
            reason = f"column {escaped(field.name)} holds a dictionary within it; save it as plain values"
            raise BadInput("E_PARQUET_SCHEMA", f"{name}: {reason}")
        if _has_twins(field.type):
            reason = f"column {escaped(field.name)} holds two fields of one name; give each its own"
            raise BadInput("E_PARQUET_SCHEMA", f"{name}: {reason}")


def _twice(names: list[str]) -> set[str]:
    seen: set[str] = set()
    return {name for name in names if name in seen or seen.add(name)}  # type: ignore[func-returns-value]


def _inner(kind: pa.DataType) -> list[pa.Field]:
    return [kind.field(place) for place in range(kind.num_fields)]


def _extension(field: pa.Field) -> str | None:
    """The extension type that a column, or a field within it, asks for by its metadata. Nothing of it is loaded."""
    if isinstance(field.type, pa.BaseExtensionType):
        return str(field.type.extension_name)
    if field.metadata and EXTENSION in field.metadata:
        return str(field.metadata[EXTENSION].decode("utf-8", "replace"))
    return next((kind for inner in _inner(field.type) if (kind := _extension(inner)) is not None), None)


def _is_dictionary(field: pa.Field) -> bool:
    return pa.types.is_dictionary(field.type) or any(_is_dictionary(inner) for inner in _inner(field.type))


def _has_twins(kind: pa.DataType) -> bool:
    inner = _inner(kind)
    twins = pa.types.is_struct(kind) and bool(_twice([field.name for field in inner]))
    return twins or any(_has_twins(field.type) for field in inner)


def _measured(file: InputFile, opened: Any, reading: Reading) -> int:
    """How many rows of the file fit at a time. Every page is decoded, and measured, before the first row is judged."""
    most = reading.decoded_bytes_at_most(file.size_bytes)
    for batch_rows in BATCH_ROWS:
        decoded_bytes = 0
        try:
            for batch in _batches(opened, batch_rows):
                decoded_bytes += batch.nbytes + ROW_BYTES * batch.num_rows
                if decoded_bytes > most:
                    raise BadInput("E_RATIO", f"{file.name}: {reading.too_much(file.size_bytes)}")
                batch.validate(full=True)
        except MemoryError:
            continue
        return batch_rows
    raise MemoryError


def _batches(opened: Any, batch_rows: int) -> Iterator[pa.RecordBatch]:
    """Of plain columns: a text that stands once in a dictionary counts as often as it is meant."""
    for batch in _parquet_file(opened).iter_batches(batch_rows, use_threads=False):
        columns = [
            column.dictionary_decode() if pa.types.is_dictionary(column.type) else column for column in batch.columns
        ]
        yield pa.RecordBatch.from_arrays(columns, names=batch.schema.names)


def _values(batch: pa.RecordBatch) -> Iterator[dict[str, Any] | BadRow]:
    if batch.nbytes <= MAX_LINE_BYTES:  # then so has every row in it
        try:
            yield from batch.to_pylist()
        except (pa.ArrowException, ValueError, OverflowError, TypeError, MemoryError):
            pass  # the rows one by one will tell which
        else:
            return
    for place in range(batch.num_rows):
        yield _value(batch.slice(place, 1))


def _value(row: pa.RecordBatch) -> dict[str, Any] | BadRow:
    if row.nbytes > MAX_LINE_BYTES:
        return BadRow(
            "E_LINE_TOO_LONG", f"row of {row.nbytes} bytes; at most {MAX_LINE_BYTES} are allowed, so shorten it"
        )
    try:
        [value] = row.to_pylist()
    except (pa.ArrowException, ValueError, OverflowError, TypeError) as error:
        return BadRow("E_ROW_TYPE", f"a value that cannot be read ({escaped(str(error))}); save its column as text")
    except MemoryError:
        return BadRow("E_LINE_TOO_LONG", "more values in one row than fit the memory of admission; split it")
    return dict(value)
