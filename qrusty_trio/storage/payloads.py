"""The payload store: payloads too large for a record, in append-only segment files (format: payload_format.py).

Rule: appended bytes never change. `read` returns exactly what was appended or raises. `sync` returns only when
everything appended before it survives a power cut. This module does not know which message owns which payload.

Segment numbers are never reused. So the reference of an old record that comes back finds either nothing or its own
bytes. Three things ensure that. Files are numbered upwards. Removing the highest one leaves an empty file that marks
its number. In case both were lost, `check` continues after the segments that records still refer to.

A new process never appends to an existing segment, because its end may be torn. It syncs what an earlier process may
not have synced (`sync_since`): nobody was told that it was safe, but whoever sends it again is told that it is there.

A failed fsync can't be retried: Linux drops the pages it could not write and reports the error once. So the bytes since
the last successful sync of that segment stay in doubt. The segment is retired. `sync` fails until the caller has called
`recover`, which returns those bytes.

To move a payload, sync between `append` and the write of the record with the new reference. The log with that record
may reach the disk at any time, even before an unsynced payload. A sync may be carried out by its caller (`begin_sync`).

Threads: everything may be called from any thread, concurrently. Only `append` and `retire` must come from a single
thread. `_lock` guards the state of the segments. It is never held during an fsync, unlink or read. `_syncing` makes a
second `sync` wait for the first, so that it does not report success for a sync still under way.

Requirements: PER-0039
"""

from __future__ import annotations

import errno
import os
import threading
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Self
from zlib import crc32

from qrusty_trio.errors import PayloadUnreadable, StartupRefused, StorageFault
from qrusty_trio.storage import payload_format as form
from qrusty_trio.storage.files import Directory, Opened, disk_fault, explained, sync_directory, write_whole
from qrusty_trio.storage.payload_files import GONE_FOR_GOOD, delete, sync_files, what_is_wrong
from qrusty_trio.storage.payload_format import FRAME_BYTES, PayloadBroken, PayloadRef
from qrusty_trio.storage.payload_sync import SegmentSync, Writer
from qrusty_trio.storage.place import Place

__all__ = ["PayloadBroken", "PayloadRef", "PayloadStore"]

MAX_OPEN_SEGMENTS = 32
"""Segments kept open for reading. The least recently read one is closed for the next."""


class PayloadStore:
    """An open directory of segments. Created by `PayloadStore.open`.

    Requirements: PER-0039
    """

    def __init__(
        self, path: Path, directory: Directory, sizes: dict[int, int], highest: int, segment_max_bytes: int
    ) -> None:
        self.path = path
        self._opened: Directory | None = directory
        self._place = Place(path, "the payload directory", lambda: None)
        self._sizes = sizes
        self._disk_bytes = sum(sizes.values())
        self._mark = highest
        self._next = max(highest, *sizes, 0) + 1
        self._segment_max_bytes = segment_max_bytes
        self._active: Writer | None = None
        self._unsynced: dict[int, Writer] = {}
        self.synced: tuple[int, int] = 0, 0
        """Segment and offset: all that was appended before has been synced. (0, 0): not known yet."""
        self._holds = False
        """Whether `synced` stays, as something before may be lost: see `settled`."""
        self._doubtful: dict[int, int] = {}
        self._losses = 0
        """Number of failed syncs."""
        self._readers: OrderedDict[int, Opened] = OrderedDict()
        self._lock = threading.Lock()
        self._syncing = threading.Lock()
        self._removing = threading.Lock()

    @classmethod
    def open(cls, directory: Path, *, segment_max_bytes: int) -> Self:
        """Open the store in `directory`, or create it. Writes nothing into it, so it works on a full disk.

        No segment grows past `segment_max_bytes`, except for one that holds a single larger payload. The caller ensures
        that no other process uses the directory. Raises `StartupRefused` when the directory can't be used.
        """
        try:
            if not directory.exists():
                directory.mkdir(parents=True)
                sync_directory(directory.parent)
            if not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
                raise StartupRefused(f"The payload directory {directory} is not readable and writable for this user.")
            sizes, highest = form.list_segments(directory)
            opened = Directory(os.open(directory, os.O_RDONLY | os.O_DIRECTORY))
            return cls(directory, opened, sizes, highest, segment_max_bytes)
        except OSError as error:
            raise StartupRefused(f"The payload directory {directory} cannot be used: {error.strerror}.") from error

    @property
    def needs_sync(self) -> bool:
        """Whether there are bytes since the last successful `sync`, or a loss that `recover` has not returned yet."""
        return bool(self._unsynced or self._doubtful)

    @property
    def active(self) -> int | None:
        """The segment that the next `append` goes to, unless it is full. It must not be removed."""
        writer = self._active
        return None if writer is None else writer.number

    def segments(self) -> dict[int, int]:
        """Segment number -> size in bytes, including headers, of all segments on disk."""
        with self._lock:
            return dict(self._sizes)

    def disk_bytes(self) -> int:
        return self._disk_bytes

    def append(self, data: bytes) -> PayloadRef:
        """Append a payload, without a sync. Returns its reference.

        Raises `DiskFull` or `StorageFault`; then nothing was appended.

        Requirements: PER-0032
        """
        checksum = crc32(data)
        frame = [form.frame_header(len(data), checksum), data]
        with self._lock:
            directory = self._directory
            try:
                writer = self._writer_with_room(FRAME_BYTES + len(data), directory)
            except OSError as error:
                raise self._fault(error) from error
            if writer.size == 0:
                frame.insert(0, form.segment_header(writer.number))
            try:
                end = write_whole(writer.descriptor, frame, writer.size)
            except OSError as error:
                self._take_back(writer)
                raise self._fault(error) from error
            writer.size = end
            self._unsynced[writer.number] = writer
            self._set_size(writer.number, end)
        return PayloadRef(writer.number, end - len(data), len(data), checksum)

    def read(self, ref: PayloadRef, octets: int | None = None) -> bytes:
        """Read a payload. With `octets` below its length, only so many bytes, which no checksum covers.

        Raises `PayloadBroken` when it is lost, `PayloadUnreadable` when it can't be read for now (no descriptors, no
        memory) and `StorageFault` when the whole directory is gone.

        Requirements: PER-0028
        """
        with self._lock:
            directory = self._directory
            size = self._sizes.get(ref.segment)
            reader = self._readers.get(ref.segment)
            if reader is not None:
                self._readers.move_to_end(ref.segment)
        wanted = ref.length if octets is None else min(octets, ref.length)
        if size is None:
            raise PayloadBroken(form.MISSING_SEGMENT, ref)
        if ref.offset + ref.length > size:
            raise PayloadBroken(form.SHORT_SEGMENT, ref)
        try:
            if reader is None:
                reader = self._open_reader(ref.segment, directory)
            data = os.pread(reader.descriptor, wanted, ref.offset)
        except FileNotFoundError:
            # No message may be removed because somebody moved the directory away.
            self.check_place()
            raise PayloadBroken(form.MISSING_SEGMENT, ref) from None
        except (OSError, MemoryError) as error:
            if isinstance(error, OSError) and error.errno in GONE_FOR_GOOD:
                raise PayloadBroken(form.UNREADABLE, ref) from error
            raise PayloadUnreadable(
                f"A large payload can't be read just now: {explained(error)}. Try again."
            ) from error
        if len(data) != wanted:
            raise PayloadBroken(form.SHORT_SEGMENT, ref)
        if wanted == ref.length and crc32(data) != ref.checksum:
            raise PayloadBroken(form.CHECKSUM, ref)
        return data

    def sync(self) -> None:
        """Make everything appended before the call survive a power cut. Blocks; any thread.

        Call it from time to time even if nobody waits for it, because each unsynced segment keeps a descriptor.

        Raises `StorageFault` (`DiskFull`) when the sync failed, and from then on until `recover` has been called. A
        call that waited while another one failed raises too, even if `recover` was called meanwhile. What its caller
        appended may be among the lost bytes, and no later sync would check them.

        Requirements: PER-0026
        """
        losses = self._losses
        with self._syncing:
            directory = self._directory
            sync = self._begin(losses)
            sync.run()
            if sync.enters:
                try:
                    directory.sync()
                except OSError as error:
                    sync.not_entered(error)
            self._end(sync)

    def begin_sync(self, most: int) -> SegmentSync | None:
        """Begin a `sync` of up to so many segments whose fdatasyncs the caller carries out, and hands to `end_sync`.

        Does not block. None if it must be left to `sync`: another one runs, a segment is new, or bytes are in doubt.
        """
        if not self._syncing.acquire(blocking=False):
            return None
        try:
            sync = self._begin(self._losses)
        except StorageFault:
            sync = None
        if sync is None or sync.enters or len(sync.descriptors) > most or self._opened is None:
            self._syncing.release()
            return None
        return sync

    def end_sync(self, sync: SegmentSync) -> None:
        """Note which fdatasyncs have ended. Raises as `sync` does."""
        try:
            self._end(sync)
        finally:
            self._syncing.release()

    def _begin(self, losses: int) -> SegmentSync:
        with self._lock:
            if self._doubtful or self._losses != losses:
                raise StorageFault(f"An earlier sync of the payloads in {self.path} failed.")
            return SegmentSync(self._unsynced.values())

    def _end(self, sync: SegmentSync) -> None:
        self._note_synced(sync)
        if sync.cause is not None:
            raise self._fault(sync.cause) from sync.cause
        self.check_place()
        sync.check_names(self.path)

    def check_place(self) -> None:
        """Raise `StorageFault` unless the directory is still where it was opened. Takes microseconds; any thread."""
        self._place.check()

    def recover(self) -> dict[int, int]:
        """Return what failed syncs may have lost. `sync` can then succeed again for what is appended from now on.

        Returns segment -> offset after which its bytes are in doubt. They may be readable now but gone after the next
        power cut; appending them again saves them. Empty if no sync has failed.

        Requirements: PER-0041
        """
        with self._lock:
            doubtful, self._doubtful = self._doubtful, {}
            return doubtful

    def settled(self) -> None:
        """What `recover` returned was appended again and synced, or is lost for good."""
        with self._lock:
            self._holds = bool(self._doubtful)

    def sync_since(self, segment: int) -> None:
        """Sync the segments of earlier processes from this number on. Blocks. Raises StorageFault."""
        with self._lock:
            directory = self._directory
            numbers = [number for number in self._sizes if number >= segment]
        try:
            sync_files(numbers, directory)
        except OSError as error:
            raise self._fault(error) from error
        self.synced = self._next, 0

    def retire(self) -> None:
        """Make the next `append` start a new segment."""
        with self._lock:
            # An empty segment stays: it is as good as a new one.
            if self._active is not None and self._active.size > 0:
                self._retire()

    def remove(self, segment: int) -> None:
        """Delete a segment for good. No effect when it does not exist. Blocks; any thread.

        A `read` that has the file open still succeeds. Raises `ValueError` for the active segment and `StorageFault`
        when the file could not be deleted. In that case it is still there, or may be back after a power cut.
        """
        with self._removing:
            with self._syncing, self._lock:
                directory = self._directory
                if segment == self.active:
                    raise ValueError(f"Segment {segment} is being appended to")
                if segment not in self._sizes:
                    return
                size = self._set_size(segment, None)
                self._readers.pop(segment, None)
                self._doubtful.pop(segment, None)
                writer = self._unsynced.pop(segment, None)
                if writer is not None:
                    os.close(writer.descriptor)
                is_highest = segment > max(self._mark, *self._sizes, 0)
            try:
                # Do not use the descriptor of `sync`: an error reported here would not be reported there again.
                delete(segment, directory.again(), mark=self._mark if is_highest else None)
                if is_highest:
                    self._mark = segment
            except OSError as error:
                if directory.has(form.segment_name(segment)):
                    with self._lock:
                        self._set_size(segment, size)
                raise self._fault(error) from error

    def check(self, expected: Mapping[int, int], highest: int = 0) -> dict[int, str]:
        """Check the segments that records refer to, at start-up.

        `expected` is segment number -> minimum size, and `highest` the highest number that may have been used.

        Returns number -> reason for each damaged segment. Only sizes and headers are checked. The reasons are those of
        `PayloadBroken` and `DAMAGED_HEADER`. Unless the segment is missing, some of its payloads may still be intact;
        `read` shows which. Blocks. Raises `StartupRefused` for a segment of another version and `StorageFault` when a
        file can't be read for now.
        """
        with self._lock:
            directory = self._directory
            self._next = max(self._next, max(expected, default=0) + 1, highest + 1)
        try:
            found = {number: what_is_wrong(number, least, directory) for number, least in expected.items()}
        except OSError as error:
            raise self._fault(error) from error
        return {number: fault for number, fault in found.items() if fault is not None}

    def close(self) -> None:
        """Sync and close. Idempotent. Blocks. Raises `StorageFault` when the sync failed; it is closed anyway."""
        if self._opened is None:
            return
        try:
            self.sync()
        finally:
            with self._removing, self._syncing, self._lock:
                self._opened = None
                self._place.close()
                writers = dict(self._unsynced)
                if self._active is not None:
                    writers[self._active.number] = self._active
                for writer in writers.values():
                    os.close(writer.descriptor)
                self._active = None
                self._unsynced.clear()
                self._doubtful.clear()
                self._readers.clear()

    @property
    def _directory(self) -> Directory:
        """The open directory. Raises `StorageFault` once the store is closed."""
        if self._opened is None:
            raise StorageFault("The payload store is closed.")
        return self._opened

    # --- Called with `_lock` held -------------------------------------------------------------------------------

    def _set_size(self, segment: int, size: int | None) -> int:
        """Set a segment's size in bytes (None: it is gone). Returns its previous size."""
        before = self._sizes.pop(segment, 0)
        if size is not None:
            self._sizes[segment] = size
        self._disk_bytes += (size or 0) - before
        return before

    def _writer_with_room(self, room: int, directory: Directory) -> Writer:
        writer = self._active
        if writer is not None and (writer.size == 0 or writer.size + room <= self._segment_max_bytes):
            return writer
        # Keep the old segment unless a new file can be created.
        number = self._next
        if number > form.MAX_SEGMENT:
            raise StorageFault(f"The payloads in {self.path} have used up the numbers of segments.")
        descriptor = directory.open(form.segment_name(number), os.O_RDWR | os.O_CREAT | os.O_EXCL)
        self._retire()
        self._next = number + 1
        self._active = writer = Writer(number, descriptor)
        self._set_size(number, 0)
        return writer

    def _retire(self) -> None:
        writer, self._active = self._active, None
        if writer is not None and writer.number not in self._unsynced:
            os.close(writer.descriptor)

    def _take_back(self, writer: Writer) -> None:
        """Truncate what a failed append left, so that the next one can use the same place."""
        try:
            os.ftruncate(writer.descriptor, writer.size)
        except OSError:
            self._retire()

    # --- Called without `_lock` ---------------------------------------------------------------------------------

    def _open_reader(self, segment: int, directory: Directory) -> Opened:
        reader = Opened(directory.open(form.segment_name(segment), os.O_RDONLY))
        with self._lock:
            # If the segment was removed meanwhile, caching its descriptor would keep its disk space in use.
            if segment in self._sizes and self._opened is not None:
                self._readers[segment] = reader
                if len(self._readers) > MAX_OPEN_SEGMENTS:
                    self._readers.popitem(last=False)
        return reader

    def _note_synced(self, sync: SegmentSync) -> None:
        covered, failed = sync.covered, sync.failed
        with self._lock:
            self._doubtful |= failed
            self._holds |= bool(failed)
            self._losses += bool(failed)
            for writer, size in covered:
                lost = writer.number in failed
                if not lost:
                    writer.entered = True
                    writer.synced = size
                    if not self._holds and sync.complete:
                        self.synced = max(self.synced, (writer.number, size))
                if lost or writer.size == size:
                    del self._unsynced[writer.number]
                    if writer is not self._active:
                        os.close(writer.descriptor)
                    elif lost:
                        self._retire()

    def _fault(self, error: OSError) -> StorageFault:
        if error.errno == errno.ENOENT:
            # No file can be made in a directory that was removed. The look at its place tells what to do.
            try:
                self.check_place()
            except StorageFault as gone:
                return gone
        return disk_fault(error, f"the payloads in {self.path}")
