"""The payload store when things go wrong: damaged files, kill -9, power cuts, full disks, failing fsyncs.

The power cut and the failing fsync are real ones, on an ext4 in an image file: what a copy of the image holds is what
the disk would hold, and an image on a full tmpfs cannot write back what it took.
"""

from __future__ import annotations

import gc
import os
import random
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qrusty_trio.errors import DiskFull, StorageFault
from qrusty_trio.storage import payload_format as form
from qrusty_trio.storage.payloads import PayloadBroken, PayloadRef, PayloadStore
from qrusty_trio.storage.removed_log import CURRENT, RemovedLog

MIB = 1024 * 1024


def open_store(path: Path, segment_max_bytes: int = MIB) -> PayloadStore:
    return PayloadStore.open(path, segment_max_bytes=segment_max_bytes)


def run(*command: str | Path) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def mount(*arguments: str | Path) -> None:
    assert run("mount", *arguments)


def mount_first(*arguments: str | Path) -> None:
    """The first mount of a test tells whether it can be run."""
    if not run("mount", *arguments):
        pytest.skip("mounting is not possible here")


@pytest.fixture
def mounts(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Makes mount points; whatever is mounted there is gone after the test."""
    points: list[Path] = []

    def point(name: str) -> Path:
        points.append(tmp_path / name)
        points[-1].mkdir()
        return points[-1]

    yield point
    for path in reversed(points):
        run("umount", "-l", path)


def make_image(image: Path, *options: str) -> None:
    """A sparse file of 64 MiB with an ext4 in it."""
    with image.open("wb") as file:
        file.truncate(64 * MIB)
    if not run("mkfs.ext4", "-q", "-b", "4096", *options, image):
        pytest.skip("there is no mkfs.ext4 here")


# --- damage ---------------------------------------------------------------------------------------------------------


def make_segments(path: Path) -> dict[PayloadRef, bytes]:
    """Four small segments of a few payloads each."""
    store = open_store(path, 200)
    payloads = [b"first", b"", b"a" * 60, bytes(40), b"b" * 90, b"last", b"\xff" * 150, b"c" * 30, b"d" * 30, b"e" * 90]
    model = {store.append(data): data for data in payloads}
    store.close()
    assert len({ref.segment for ref in model}) == 4
    return model


def assert_whole_or_broken(
    path: Path, model: dict[PayloadRef, bytes], damaged: set[int], *, go_on: bool = False
) -> set[PayloadRef]:
    """Every reference reads right or raises; only those into damaged segments raise. Returns the broken ones."""
    store = open_store(path, 200)
    broken = set()
    try:
        least: dict[int, int] = {}
        for ref in model:
            least[ref.segment] = max(least.get(ref.segment, 0), ref.offset + ref.length)
        assert store.check(least).keys() <= damaged
        for ref, data in model.items():
            try:
                assert store.read(ref) == data
            except PayloadBroken:
                assert ref.segment in damaged
                broken.add(ref)
        if go_on:
            ref = store.append(b"new")
            assert ref.segment > max(other.segment for other in model)
            assert store.read(ref) == b"new"
    finally:
        store.close()
    return broken


def touched(model: dict[PayloadRef, bytes], segment: int, position: int) -> set[PayloadRef]:
    """The payload that has this byte."""
    return {ref for ref in model if ref.segment == segment and ref.offset <= position < ref.offset + ref.length}


# Verifies: PER-0028
def test_a_changed_byte_breaks_its_own_payload_only(tmp_path: Path) -> None:
    model = make_segments(tmp_path)
    for file in sorted(tmp_path.glob("*.payloads")):
        segment = int(file.stem)
        sound = file.read_bytes()
        for position in range(len(sound)):
            damaged = bytearray(sound)
            damaged[position] ^= 1 << position % 8
            file.write_bytes(damaged)
            assert assert_whole_or_broken(tmp_path, model, {segment}) == touched(model, segment, position)
            if position < form.HEADER_BYTES:
                store = open_store(tmp_path)
                assert store.check({segment: len(sound)}) == {segment: "damaged header"}
                store.close()
        file.write_bytes(sound)


def test_a_segment_cut_off_anywhere_loses_the_payloads_behind_only(tmp_path: Path) -> None:
    model = make_segments(tmp_path)
    for file in sorted(tmp_path.glob("*.payloads")):
        segment = int(file.stem)
        sound = file.read_bytes()
        for size in range(len(sound)):
            os.truncate(file, size)
            lost = {ref for ref in model if ref.segment == segment and ref.offset + ref.length > size}
            assert assert_whole_or_broken(tmp_path, model, {segment}) == lost
            file.write_bytes(sound)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 250), st.binary(max_size=60)), min_size=1, max_size=5))
@settings(max_examples=60, deadline=None)
def test_overwritten_anywhere(damages: list[tuple[int, int, bytes]]) -> None:
    with TemporaryDirectory(prefix="qrusty-") as place:
        path = Path(place)
        model = make_segments(path)
        files = sorted(path.glob("*.payloads"))
        for index, position, data in damages:
            with files[index].open("r+b") as file:
                file.seek(position)
                file.write(data)
        assert_whole_or_broken(path, model, {int(files[index].stem) for index, _, _ in damages}, go_on=True)


@given(st.permutations(range(4)), st.sets(st.integers(0, 3)))
@settings(max_examples=25, deadline=None)
def test_swapped_and_deleted_files_give_no_foreign_payload(order: list[int], deleted: set[int]) -> None:
    with TemporaryDirectory(prefix="qrusty-") as place:
        path = Path(place)
        model = make_segments(path)
        files = sorted(path.glob("*.payloads"))
        contents = [file.read_bytes() for file in files]
        for index, file in enumerate(files):
            file.write_bytes(contents[order[index]])
            if index in deleted:
                file.unlink()
        damaged = {int(file.stem) for index, file in enumerate(files) if index in deleted or order[index] != index}
        broken = assert_whole_or_broken(path, model, damaged, go_on=True)
        assert broken >= {ref for ref in model if ref.segment - 1 in deleted}


def test_damage_while_it_is_open(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    refs = [store.append(bytes([number]) * 5000) for number in range(3)]
    assert store.read(refs[2]) == b"\x02" * 5000
    file = tmp_path / form.segment_name(1)
    with file.open("r+b") as damage:
        damage.seek(refs[0].offset + 17)
        damage.write(b"!")
    os.truncate(file, refs[2].offset + 10)
    reasons = []
    for ref in (refs[0], refs[2]):
        with pytest.raises(PayloadBroken) as broken:
            store.read(ref)
        reasons.append(broken.value.reason)
    assert reasons == ["checksum", "short segment"]
    assert store.read(refs[1]) == b"\x01" * 5000
    store.close()


def test_a_torn_end_is_listed_as_not_whole_and_never_appended_to(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    refs = [store.append(b"payload %d" % number) for number in range(3)]
    store.close()
    file = tmp_path / form.segment_name(1)
    with file.open("r+b") as damage:
        damage.seek(refs[1].offset)
        damage.write(b"?")
    os.truncate(file, file.stat().st_size - 1)
    assert list(form.frames(file)) == [(refs[0], True), (refs[1], False)]
    store = open_store(tmp_path)
    assert store.append(b"x").segment == 2
    store.close()


# --- a process that dies --------------------------------------------------------------------------------------------


def numbered(number: int) -> bytes:
    """A payload of up to 60 KB that can be told from all others."""
    return random.Random(number).randbytes(number * 7919 % 60_000)


APPEND_AND_SYNC = """
import sys
from pathlib import Path
from tests.storage.test_payload_crash import numbered, open_store
store = open_store(Path(sys.argv[1]), 500_000)
number = int(sys.argv[2])
while True:
    synced = []
    for _ in range(5):
        synced.append((number, store.append(numbered(number)).pack().hex()))
        number += 1
    store.sync()
    for line in synced:
        print(*line, flush=True)
"""

LIMITS = """
import resource, sys
from pathlib import Path
from qrusty_trio.errors import PayloadUnreadable, StorageFault
from tests.storage.test_payload_crash import open_store
store = open_store(Path(sys.argv[1]), 10_000_000)
ref = store.append(b"r" * 5000)
store.retire()
# Files may not grow past 100,000 bytes: the last write comes back short, then fails.
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
written = []
for round in range(3):
    try:
        while True:
            written.append(store.append(b"w" * 3001))
    except StorageFault as fault:
        assert fault.code == "storage_error"
written.append(store.append(b"small"))
store.sync()
# No descriptors left: that says nothing about the payload.
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
try:
    store.read(ref)
except PayloadUnreadable:
    print("not now", flush=True)
resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
assert store.read(ref) == b"r" * 5000
store.close()
print(len(written), *(ref.pack().hex() for ref in written))
"""


def child(source: str, *arguments: str) -> subprocess.Popen[str]:
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([root, *sys.path])}
    return subprocess.Popen(
        [sys.executable, "-c", source, *arguments], stdout=subprocess.PIPE, text=True, env=environment
    )


def test_everything_synced_survives_kill_9(tmp_path: Path) -> None:
    synced: dict[PayloadRef, int] = {}
    for round_number in range(3):
        highest = max((ref.segment for ref in synced), default=0)
        with child(APPEND_AND_SYNC, str(tmp_path), str(round_number * 100_000)) as process:
            assert process.stdout is not None
            for count, line in enumerate(process.stdout):
                if count == 60 + 37 * round_number:
                    process.kill()
                if line.endswith("\n"):
                    number, packed = line.split()
                    synced[PayloadRef.unpack(bytes.fromhex(packed))] = int(number)
        store = open_store(tmp_path)
        assert {ref: crc32(store.read(ref)) for ref in synced} == {
            ref: crc32(numbered(number)) for ref, number in synced.items()
        }
        assert max(ref.segment for ref in synced) > highest
        store.close()
    assert len(synced) > 200


# Verifies: PER-0038
def test_limits_of_the_process_are_not_damage(tmp_path: Path) -> None:
    with child(LIMITS, str(tmp_path)) as process:
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    first, second = output.splitlines()
    assert first == "not now"
    count, *packed = second.split()
    refs = [PayloadRef.unpack(bytes.fromhex(one)) for one in packed]
    # Nothing that was refused has left a trace: one frame after the other.
    assert [frame for frame in form.frames(tmp_path / form.segment_name(2)) if frame.whole] == [
        (ref, True) for ref in refs
    ]
    assert int(count) == len(refs) == (100_000 - 16) // 3009 + 1
    assert (tmp_path / form.segment_name(2)).stat().st_size == refs[-1].offset + refs[-1].length


# --- a power cut ----------------------------------------------------------------------------------------------------


def test_everything_synced_survives_a_power_cut(tmp_path: Path, mounts: Callable[[str], Path]) -> None:
    image = tmp_path / "image"
    make_image(image)
    disk = mounts("disk")
    mount_first("-o", "loop", image, disk)
    store = open_store(disk / "payloads", 300_000)
    first = store.append(b"removed")
    store.retire()
    store.sync()
    appended: dict[PayloadRef, bytes] = {}
    claimed: list[PayloadRef] = []
    stop = threading.Event()

    def sync_again_and_again() -> None:
        while not stop.is_set():
            before = list(appended)
            store.sync()
            claimed[:] = before

    with ThreadPoolExecutor() as pool:
        job = pool.submit(sync_again_and_again)
        for number in range(400):
            data = numbered(number)
            appended[store.append(data)] = data
            if job.done():
                break
        stop.set()
        job.result()
    for _ in range(3):
        last = store.append(b"the very last")
        appended[last] = b"the very last"
        store.retire()
    claimed = list(appended)
    store.sync()
    store.remove(first.segment)
    highest = last.segment
    store.remove(highest)
    shutil.copyfile(image, tmp_path / "after")
    store.append(b"too late")
    store.close()

    after = mounts("after-the-cut")
    mount("-o", "loop", tmp_path / "after", after)
    store = open_store(after / "payloads")
    assert {ref: store.read(ref) for ref in claimed if ref.segment != highest} == {
        ref: data for ref, data in appended.items() if ref.segment != highest
    }
    assert first.segment not in store.segments()
    assert highest not in store.segments()
    assert store.append(b"x").segment == highest + 1
    store.close()


# --- disks that refuse ----------------------------------------------------------------------------------------------


def test_a_full_disk(tmp_path: Path, mounts: Callable[[str], Path]) -> None:
    disk = mounts("disk")
    mount_first("-t", "tmpfs", "-o", "size=4m", "none", disk)
    store = open_store(disk / "payloads", MIB)
    model: dict[PayloadRef, bytes] = {}

    def fill(size: int) -> None:
        while True:
            data = os.urandom(size)
            model[store.append(data)] = data

    for size in (70_001, 9001, 501):
        before = store.disk_bytes()
        with pytest.raises(DiskFull, match="free some"):
            fill(size)
        assert store.disk_bytes() > before
        with pytest.raises(DiskFull):
            store.append(bytes(70_000))
    sizes = {int(file.stem): file.stat().st_size for file in (disk / "payloads").glob("*.payloads")}
    assert store.segments() == sizes
    listed = [frame for number in sorted(sizes) for frame in form.frames(disk / "payloads" / form.segment_name(number))]
    assert listed == [(ref, True) for ref in model]
    store.sync()
    assert {ref: store.read(ref) for ref in model} == model
    store.close()

    # It opens on the full disk, and once something is gone it goes on.
    store = open_store(disk / "payloads", MIB)
    assert {ref: store.read(ref) for ref in model} == model
    with pytest.raises(DiskFull):
        store.append(bytes(2 * MIB))
    highest = max(ref.segment for ref in model)
    store.remove(highest)
    new = store.append(b"n" * 5000)
    store.sync()
    assert new.segment > highest
    assert store.read(new) == b"n" * 5000
    store.close()


def test_the_list_of_removed_messages_on_a_full_disk(tmp_path: Path, mounts: Callable[[str], Path]) -> None:
    disk = mounts("disk")
    mount_first("-t", "tmpfs", "-o", "size=1m", "none", disk)
    log = RemovedLog(disk)
    log.record("2026-01-31T12:00:00Z", [("q", "one", 1, "checksum", 1, 24, 5000)])
    before = (disk / CURRENT).read_bytes()
    with pytest.raises(DiskFull):
        log.record("2026-01-31T12:00:00Z", [("q" * 1000, "two", 1, "checksum", 1, 24, 5000)] * 2000)
    assert (disk / CURRENT).read_bytes() == before


# Verifies: PER-0041
def test_a_disk_that_fails_to_sync_is_not_believed_again(tmp_path: Path, mounts: Callable[[str], Path]) -> None:
    base, disk = mounts("base"), mounts("disk")
    mount_first("-t", "tmpfs", "-o", "size=12m", "none", base)
    make_image(base / "image", "-O", "^has_journal")
    mount_first("-o", "loop", base / "image", disk)
    store = open_store(disk / "payloads", 48 * MIB)
    sound = {store.append(data): data for data in (os.urandom(100_000) for _ in range(5))}
    store.sync()
    os.sync()

    # The page cache takes what the disk cannot.
    lost = {store.append(data): data for data in (os.urandom(MIB) for _ in range(20))}
    with pytest.raises(StorageFault):
        store.sync()
    for _ in range(2):
        assert store.needs_sync
        with pytest.raises(StorageFault, match="earlier sync"):
            store.sync()
    assert store.active is None
    assert store.recover() == {1: max(ref.offset + ref.length for ref in sound)}
    assert not store.needs_sync
    assert store.recover() == {}

    # There is room again, and what comes from now on is as good as ever.
    mount("-o", "remount,size=64m", base)
    new = {store.append(data): data for data in (os.urandom(100_000) for _ in range(5))}
    assert {ref.segment for ref in new} == {2}
    store.sync()
    store.close()
    gc.collect()  # the faults above hold the frames that they went through, and these the directory
    assert run("umount", disk)
    mount("-o", "loop", base / "image", disk)
    store = open_store(disk / "payloads")
    assert {ref: store.read(ref) for ref in (*sound, *new)} == {**sound, **new}
    broken = 0
    for ref, data in lost.items():
        try:
            assert store.read(ref) == data
        except PayloadBroken:
            broken += 1
    assert broken > 0
    store.close()


def test_a_disk_that_became_read_only(tmp_path: Path, mounts: Callable[[str], Path]) -> None:
    disk = mounts("disk")
    mount_first("-t", "tmpfs", "-o", "size=4m", "none", disk)
    store = open_store(disk)
    ref = store.append(b"x" * 5000)
    store.sync()
    store.retire()
    store.append(b"y")
    store.close()
    store = open_store(disk)
    mount("-o", "remount,ro", disk)
    with pytest.raises(StorageFault):
        store.append(b"z")
    with pytest.raises(StorageFault):
        store.remove(ref.segment)
    assert store.read(ref) == b"x" * 5000
    mount("-o", "remount,rw", disk)
    assert store.append(b"z").segment == 3
    store.remove(ref.segment)
    assert sorted(store.segments()) == [2, 3]
    store.close()
