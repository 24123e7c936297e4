"""Segment files beside RocksDB's own blob files: where large payloads are better kept.

    python -m bench.blobs [--messages 4000] [--rounds 3] [--dir DIRECTORY]

Rule: both sides store the same random payloads, sync after every 16, read each of them once in order, and then remove
all. What is compared first is bytes written to the disk, as that does not depend on how busy the machine is.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rocksdict import AccessType, DBCompressionType, Options, Rdict, WriteBatch, WriteOptions

from qrusty_trio.storage.payloads import PayloadStore

SIZE = 64 * 1024
GROUP = 16
MIB = 2**20
SEGMENT_BYTES = 64 * MIB


def written() -> int:
    """Bytes that this process has had written to the disk."""
    for line in Path("/proc/self/io").read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(": ")
        if name == "write_bytes":
            return int(value)
    raise RuntimeError("/proc/self/io has no write_bytes")


def disk_bytes(directory: Path) -> int:
    return sum(file.stat().st_blocks * 512 for file in directory.rglob("*") if file.is_file())


Figures = dict[str, float]


def segments(directory: Path, payloads: list[bytes]) -> Figures:
    """Payloads in segment files. The references, which RocksDB keeps, are left out: 40 bytes each."""
    directory.mkdir()
    store = PayloadStore.open(directory, segment_max_bytes=SEGMENT_BYTES)
    before, begin = written(), time.perf_counter()
    references = []
    for index, payload in enumerate(payloads, 1):
        references.append(store.append(payload))
        if index % GROUP == 0:
            store.sync()
    stored = time.perf_counter() - begin
    begin = time.perf_counter()
    for reference in references:
        store.read(reference)
    read = time.perf_counter() - begin
    for number in sorted({reference.segment for reference in references})[:-1]:
        store.remove(number)
    amplification = (written() - before) / sum(map(len, payloads))
    left = disk_bytes(directory)
    store.close()
    return {"stored": stored, "read": read, "amplification": amplification, "left": left / MIB}


def blobs(directory: Path, payloads: list[bytes]) -> Figures:
    """Payloads as values of a RocksDB that keeps values of 4 KiB and more in blob files, with its own collection."""
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_enable_blob_files(True)
    options.set_min_blob_size(4096)
    options.set_blob_file_size(SEGMENT_BYTES)
    options.set_blob_compression_type(DBCompressionType.none())
    options.set_enable_blob_gc(True)
    options.set_blob_gc_age_cutoff(1.0)
    options.set_blob_gc_force_threshold(0.5)
    options.set_write_buffer_size(16 * MIB)
    database = Rdict(str(directory), options, access_type=AccessType.read_write())
    database.set_write_options(WriteOptions())
    before, begin = written(), time.perf_counter()
    for start in range(0, len(payloads), GROUP):
        batch = WriteBatch(raw_mode=True)
        for index, payload in enumerate(payloads[start : start + GROUP], start):
            batch.put(b"%08d" % index, payload)
        database.write(batch)
        database.flush_wal(True)
    stored = time.perf_counter() - begin
    begin = time.perf_counter()
    for index in range(len(payloads)):
        assert database.get(b"%08d" % index) is not None
    read = time.perf_counter() - begin
    for start in range(0, len(payloads), GROUP):
        batch = WriteBatch(raw_mode=True)
        for index in range(start, min(start + GROUP, len(payloads))):
            batch.delete(b"%08d" % index)
        database.write(batch)
    database.flush_wal(True)
    database.flush()
    database.compact_range(None, None)
    amplification = (written() - before) / sum(map(len, payloads))
    database.close()
    return {"stored": stored, "read": read, "amplification": amplification, "left": disk_bytes(directory) / MIB}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--messages", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dir", type=Path, default=None, help="a directory on the disk to measure")
    options = parser.parse_args()
    generator = random.Random(1)
    payloads = [generator.randbytes(SIZE) for _ in range(64)]
    payloads = [payloads[index % len(payloads)] for index in range(options.messages)]
    sides: dict[str, Callable[[Path, list[bytes]], Figures]] = {"segment files": segments, "blob files": blobs}
    figures: dict[str, list[Figures]] = {name: [] for name in sides}
    for number in range(options.rounds):
        for name in list(sides)[:: 1 if number % 2 else -1]:
            with tempfile.TemporaryDirectory(prefix="bench-blobs-", dir=options.dir) as directory:
                os.sync()
                figures[name].append(sides[name](Path(directory) / "store", payloads))
    print("| | stored, s | read, s | bytes written : payload | MiB left after all were removed |")
    print("|---|---:|---:|---:|---:|")
    for name, rounds in figures.items():
        shown = [statistics.median(each[key] for each in rounds) for key in ("stored", "read", "amplification", "left")]
        print(f"| {name} | " + " | ".join(f"{value:.2f}" for value in shown) + " |")


if __name__ == "__main__":
    main()
