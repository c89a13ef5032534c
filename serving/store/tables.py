"""Parquet as the store writes it: page checksums in the file, and a witness of its bytes for the manifest."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from serving.store.durable import write_bytes
from serving.store.witness import Witness


def write_table(path: Path, table: pa.Table) -> Witness:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    data = sink.getvalue().to_pybytes()
    write_bytes(path, data)
    return Witness.of(data)


def read_table(path: Path, columns: list[str] | None = None) -> pa.Table:
    """Of this very file: nothing is read into the names of the folders above it."""
    return pq.ParquetFile(path, page_checksum_verification=True).read(columns=columns, use_threads=False)
