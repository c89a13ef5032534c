"""A real S3-compatible server on loopback: SeaweedFS, whose binary is a package of requirements/dev.in."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import obstore
import obstore.store

WEED = Path(sys.executable).parent / "weed"
BUCKET = "tests"
KEYS = {"AWS_ACCESS_KEY_ID": "tests", "AWS_SECRET_ACCESS_KEY": "a-key-of-these-tests-alone"}
STARTS_WITHIN_S = 90.0
GRPC = 10_000  # so far above its port each part of it listens once more


@dataclass(frozen=True, slots=True)
class ObjectStore:
    port: int

    @property
    def environment(self) -> dict[str, str]:
        return environment_of(self.port)

    def folder(self, name: str) -> Any:
        """To look into, and to break, behind gristmill's back."""
        return obstore.store.S3Store(
            BUCKET, prefix=name, endpoint=f"http://127.0.0.1:{self.port}", region="us-east-1",
            access_key_id=KEYS["AWS_ACCESS_KEY_ID"], secret_access_key=KEYS["AWS_SECRET_ACCESS_KEY"],
            client_options={"allow_http": True},
        )  # fmt: skip

    def contents(self, name: str) -> dict[str, bytes]:
        folder = self.folder(name)
        found = (meta["path"] for meta in obstore.list(folder).collect())
        return {path: obstore.get(folder, path).bytes().to_bytes() for path in sorted(found)}


def environment_of(port: int) -> dict[str, str]:
    return {**KEYS, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_REGION": "us-east-1", "AWS_ALLOW_HTTP": "true"}


@contextmanager
def object_store(folder: Path) -> Iterator[ObjectStore]:
    folder.mkdir(parents=True, exist_ok=True)
    parts = ("master", "volume", "filer", "s3")
    ports = dict(zip(parts, free_ports(len(parts)), strict=True))
    listening = [f"-{part}.port={port}" for part, port in ports.items()]
    sizes = [
        "-master.volumeSizeLimitMB=64",
        "-volume.max=0",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
    ]
    with (folder / "log.txt").open("wb") as log:
        server = subprocess.Popen(
            [WEED, "server", f"-dir={folder}", "-s3", *sizes, *listening], stdout=log, stderr=log,
            env={**os.environ, **KEYS}, cwd=folder,
        )  # fmt: skip
    try:
        found = ObjectStore(ports["s3"])
        _await(found, server, folder / "log.txt")
        yield found
    finally:
        server.kill()
        server.wait()


def _await(store: ObjectStore, server: "subprocess.Popen[bytes]", log: Path) -> None:
    give_up = time.monotonic() + STARTS_WITHIN_S
    while time.monotonic() < give_up and server.poll() is None:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", store.port), timeout=1.0).close()
            try:
                obstore.put(store.folder("is-it-there"), "yes", b"yes")
            except Exception:  # noqa: BLE001 (of obstore: not yet)
                time.sleep(0.5)
                continue
            return
        time.sleep(0.1)
    raise RuntimeError(f"no object store came up: {log.read_text(errors='replace')[-2000:]}")


def free_ports(count: int) -> list[int]:
    """Each free once more GRPC above it."""
    found: list[int] = []
    while len(found) < count:
        with socket.socket() as probe, socket.socket() as above:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1] - GRPC if probe.getsockname()[1] > 45_000 else probe.getsockname()[1]
            with contextlib.suppress(OSError):
                above.bind(("127.0.0.1", port + GRPC if port + GRPC != probe.getsockname()[1] else port))
                found.append(port)
    return found
