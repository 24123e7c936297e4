"""Whether a store agrees with itself: counters, keys, records, and all that is said in two places.

Rule: it only reads, and goes on after each problem. What it keeps in memory grows with queues and segments, not with
messages: the other end of a reference is looked up, not remembered.

What has to hold is in docs/format.md. For each queue: its counters are what is there; no available message stands
before its head; a key is one that its priority and sequence number make; a message is in one family only; a dead letter
is found by its id; the digest of a payload leads to its message where duplicates are refused. For each payload in a
segment file: EXTERNAL names its message, META has the sums, and the bytes match their checksum.

Requirements: API-0133
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Generator, Iterator
from typing import NamedTuple

import msgspec

from qrusty_trio.core import records
from qrusty_trio.core.configuration import Restored, unpack_config
from qrusty_trio.core.externals import DEAD_LETTER, LIVE
from qrusty_trio.core.keys import (
    COUNTERS,
    DEAD_FROM,
    DEAD_INDEX,
    LOCKS_FROM,
    NEXT_QUEUE,
    PREFIX_BYTES,
    QUEUE_CONFIG,
    SEGMENT_SUMS,
    SEGMENTS_SYNCED,
    KeyCoder,
    dead_index_key,
    prefix,
)
from qrusty_trio.core.model import ID_CHARACTERS
from qrusty_trio.core.records import EXTERNAL, PAYLOAD_AT
from qrusty_trio.core.verifying_sums import GROUP_BYTES, PAIRS_PER_STEP, PayloadSums, Source
from qrusty_trio.errors import InvalidPriority, StorageFault
from qrusty_trio.storage.base import Family
from qrusty_trio.storage.payload_format import REFERENCE_BYTES, PayloadBroken, PayloadRef

END = b"\xff" * 3000
"""After every key."""
KEY = struct.Struct(">IIBQ")
"""Segment, queue, kind, offset: a key of EXTERNAL."""
_COUNTERS = struct.Struct(">7Q")
_SCHEMA = b"schema_version"
_KNOWN_FLAGS = 0xFD
"""Bit 1 of a record's flags means nothing."""


class Problem(NamedTuple):
    """Where a store contradicts itself."""

    code: str
    """What kind it is: stable, for programs."""
    queue: str | None
    sentence: str


class _Queue:
    """A queue, and what was found of it."""

    def __init__(self, number: int, restored: Restored) -> None:
        self.name, config, self.searching, dead_number, self.kept = restored
        self.prefix = prefix(number)
        self.coder = KeyCoder(number, config)
        self.refuses_duplicates = not config.allow_duplicates
        self.dead_number = number if dead_number is None else dead_number
        self.counted = (0, 0, 0)
        self.next_sequence = self.next_lock = self.next_dead = 0
        self.head = b""
        self.locks_from = self.dead_from = 0
        self.found = [0, 0, 0]
        """Available, locked, dead."""
        self.digests = 0
        self.indexed = 0
        self.letters_with_index = 0


class Verifier:
    """Reads a store from end to end. `found` is called with each problem."""

    def __init__(
        self, source: Source, read_payload: Callable[[PayloadRef], bytes], found: Callable[[Problem], None]
    ) -> None:
        """`read_payload` raises PayloadBroken."""
        self._source = source
        self._read_payload = read_payload
        self._found = found
        self._queues: dict[int, _Queue] = {}
        self._with_letters: dict[int, _Queue] = {}
        """By the number in the keys of their dead letters."""
        self._sums = PayloadSums(source)
        self.messages = 0

    def run(self) -> Iterator[int]:
        """Verify everything. Yields how many entries each step looked at."""
        if not (yield from self._each(Family.META, self._meta)):
            return  # Without the queues nothing else can be judged.
        self._check_queues()
        yield from self._each(Family.MESSAGES, self._available)
        yield from self._each(Family.LOCKS, self._locked)
        yield from self._each(Family.DEAD, self._dead)
        yield from self._each(Family.DEDUP, self._digest)
        yield from self._each(Family.EXTERNAL, self._external)
        self._compare_counts()
        for code, number, sentence in self._sums.differences():
            self._problem(code, self._queues.get(number) if number is not None else None, sentence)

    @property
    def queues(self) -> int:
        """Those that are kept aside do not count."""
        return sum(queue.kept is None for queue in self._queues.values())

    def _problem(self, code: str, queue: _Queue | None, sentence: str) -> None:
        self._found(Problem(code, None if queue is None else queue.name, sentence))

    def _each(self, family: Family, look: Callable[[bytes, bytes], None]) -> Generator[int, None, bool]:
        """Look at a family. Returns whether all of it could be read."""
        begin = b""
        try:
            while pairs := self._source.scan(family, begin, END, PAIRS_PER_STEP):
                for key, value in pairs:
                    try:
                        look(key, value)
                    except (struct.error, ValueError, IndexError, msgspec.MsgspecError) as error:
                        self._problem(
                            "unreadable",
                            self._queue_of(family, key),
                            f"{family.name} {key[:64].hex()} can't be read: {error}",
                        )
                begin = pairs[-1][0] + b"\0"
                yield len(pairs)
        except StorageFault as fault:
            self._problem("unreadable", None, f"{fault}. What follows was not looked at")
            return False
        return True

    def _queue_of(self, family: Family, key: bytes) -> _Queue | None:
        if family in (Family.META, Family.EXTERNAL):
            return None  # other keys do not begin with the number of a queue
        return self._owners(family).get(int.from_bytes(key[:PREFIX_BYTES], "big"))

    def _owners(self, family: Family) -> dict[int, _Queue]:
        return self._with_letters if family is Family.DEAD else self._queues

    # META

    def _meta(self, key: bytes, value: bytes) -> None:
        kind, number = key[:1], key[1:]
        if key in (_SCHEMA, NEXT_QUEUE, SEGMENTS_SYNCED) or (kind == SEGMENT_SUMS and len(number) == GROUP_BYTES):
            return
        if len(number) != PREFIX_BYTES or kind not in (QUEUE_CONFIG, COUNTERS, DEAD_FROM, LOCKS_FROM):
            self._problem("unknown_key", None, f"META has a key that means nothing: {key[:64].hex()}")
            return
        if kind == QUEUE_CONFIG:
            queue_number = int.from_bytes(number, "big")
            queue = self._queues[queue_number] = _Queue(queue_number, unpack_config(value))
            if queue.kept is not None and queue.kept.purged:
                return  # its dead letters stayed with the queue that goes on
            if queue.dead_number in self._with_letters:
                self._problem("dead_number", queue, "another queue has its dead letters, too")
            self._with_letters[queue.dead_number] = queue
        elif self._source.get(Family.META, QUEUE_CONFIG + number) is None:
            self._problem("no_queue", None, f"META has {kind.decode()} of queue {number.hex()}, but no such queue")

    def _check_queues(self) -> None:
        names: set[str] = set()
        for number, queue in self._queues.items():
            if queue.kept is None:
                if queue.name in names:
                    self._problem("same_name", queue, "two queues have this name")
                names.add(queue.name)
            try:
                self._read_counters(queue, prefix(number))
            except (struct.error, ValueError) as error:
                self._problem("unreadable", queue, f"its counters can't be read: {error}")
        following = int.from_bytes(self._source.get(Family.META, NEXT_QUEUE) or b"", "big")
        if self._queues and following <= (highest := max((*self._queues, *self._with_letters))):
            self._problem("next_queue", None, f"the next queue would get number {following}, but {highest} is in use")

    def _read_counters(self, queue: _Queue, number: bytes) -> None:
        value = self._source.get(Family.META, COUNTERS + number)
        if value is None:
            self._problem("no_counters", queue, "its counters are missing")
            return
        available, locked, dead, *numbers, length = _COUNTERS.unpack_from(value)
        queue.counted = available, locked, dead
        queue.next_sequence, queue.next_lock, queue.next_dead = numbers
        queue.head = value[_COUNTERS.size : _COUNTERS.size + length]
        trimmed_to = value[_COUNTERS.size + length :]
        if len(queue.head) != length or not queue.head.startswith((number, prefix(int.from_bytes(number, "big") + 1))):
            self._problem("head", queue, "its head is no key of it")
        if trimmed_to > queue.head:
            self._problem("head", queue, "it is trimmed beyond its head")
        queue.locks_from = int.from_bytes(self._source.get(Family.META, LOCKS_FROM + number) or b"", "big")
        queue.dead_from = int.from_bytes((self._source.get(Family.META, DEAD_FROM + number) or b"")[:8], "big")

    # Messages, wherever they are

    def _available(self, key: bytes, record: bytes) -> None:
        queue = self._owner(Family.MESSAGES, key)
        if queue is None:
            return
        queue.found[0] += 1
        if key < queue.head:
            self._problem("before_head", queue, f"message {_id(record)} stands before its head, and is never consumed")
        self._message(queue, key, record, LIVE, key)

    def _locked(self, key: bytes, value: bytes) -> None:
        queue = self._owner(Family.LOCKS, key)
        if queue is None:
            return
        queue.found[1] += 1
        lock = records.unpack_lock(value)
        id = _id(lock.record)
        number = int.from_bytes(key[PREFIX_BYTES:], "big")
        if not queue.locks_from <= number < queue.next_lock:
            self._problem(
                "lock_number", queue, f"the lock of message {id} has number {number}, which was not given out"
            )
        counted = records.unpack_message(lock.record)[3]
        if lock.deliveries != counted + 1:
            self._problem(
                "deliveries", queue, f"message {id} was delivered {counted} + 1 times, its lock says {lock.deliveries}"
            )
        self._elsewhere(queue, key, lock.key, id)
        self._message(queue, lock.key, lock.record, LIVE, lock.key, locked=True)

    def _dead(self, key: bytes, value: bytes) -> None:
        queue = self._owner(Family.DEAD, key)
        if queue is None:
            return
        if key[PREFIX_BYTES : PREFIX_BYTES + 1] == DEAD_INDEX:
            self._indexed(queue, key, value)
            return
        queue.found[2] += 1
        letter = records.unpack_dead_letter(value)
        id = _id(letter.record)
        number = int.from_bytes(key[PREFIX_BYTES:], "big")
        if not queue.dead_from <= number < queue.next_dead:
            self._problem("dead_number", queue, f"dead letter {id} has number {number}, which was not given out")
        if letter.died_ms is not None:
            queue.letters_with_index += 1
            if self._source.get(Family.DEAD, dead_index_key(key[:PREFIX_BYTES], id)) != key[PREFIX_BYTES:]:
                self._problem("dead_index", queue, f"dead letter {id} is not found by its id")
        # It may have died under an earlier number of the queue.
        message_key = queue.prefix + letter.key[PREFIX_BYTES:]
        self._elsewhere(queue, key, message_key, id)
        self._message(queue, message_key, letter.record, DEAD_LETTER, key)

    def _indexed(self, queue: _Queue, key: bytes, value: bytes) -> None:
        queue.indexed += 1
        if self._source.get(Family.DEAD, key[:PREFIX_BYTES] + value) is None:
            id = key[PREFIX_BYTES + 1 :].decode()
            self._problem("dead_index", queue, f"the index leads from {id} to a dead letter that is not there")

    def _owner(self, family: Family, key: bytes) -> _Queue | None:
        queue = self._owners(family).get(int.from_bytes(key[:PREFIX_BYTES], "big"))
        if queue is None:
            self._problem("no_queue", None, f"{family.name} has {key[:64].hex()}, but there is no such queue")
        return queue

    def _elsewhere(self, queue: _Queue, key: bytes, message_key: bytes, id: str) -> None:
        """A message that is locked or dead is not available, too."""
        there = self._source.get(Family.MESSAGES, message_key)
        if there is not None:
            self._problem("twice", queue, f"message {id} of {key.hex()} and message {_id(there)} have one place")

    def _message(
        self, queue: _Queue, key: bytes, record: bytes, kind: int, owner_key: bytes, locked: bool = False
    ) -> None:
        self.messages += 1
        flags, _, _, _, raw = records.unpack_message(record)
        id = raw.decode("ascii")
        if flags & ~_KNOWN_FLAGS:
            self._problem("unreadable", queue, f"message {id} has flags that mean nothing: {flags:02x}")
        sequence = queue.coder.sequence(key)
        if not _is_made(queue.coder, key, sequence):
            self._problem("key", queue, f"message {id} has a key that no priority makes: {key[:64].hex()}")
        if sequence >= queue.next_sequence:
            self._problem("sequence", queue, f"message {id} has sequence number {sequence}, which was not given out")
        payload = self._payload(queue, id, record, kind, owner_key)
        if payload is None:
            queue.digests += kind == LIVE  # nobody can say which one it has
            return
        try:
            payload.decode()
        except UnicodeDecodeError:
            self._problem("payload", queue, f"the payload of message {id} is no UTF-8")
        if kind == LIVE and queue.refuses_duplicates and not queue.searching:
            owner = self._source.get(Family.DEDUP, key[:PREFIX_BYTES] + records.digest_of(payload))
            if locked and owner is not None and owner != raw:
                return  # An equal one was locked before, too: this one is dropped when it comes back unsettled.
            queue.digests += 1
            if owner != raw:
                self._problem("digest", queue, f"the digest of the payload of message {id} does not lead to it")

    # Payloads

    def _payload(self, queue: _Queue, id: str, record: bytes, kind: int, owner_key: bytes) -> bytes | None:
        """The payload of a message; None if it is lost."""
        if not record[0] & EXTERNAL:
            return record[PAYLOAD_AT:]
        ref = PayloadRef.unpack(record[PAYLOAD_AT : PAYLOAD_AT + REFERENCE_BYTES])
        index_key = KEY.pack(ref.segment, int.from_bytes(owner_key[:PREFIX_BYTES], "big"), kind, ref.offset)
        self._sums.note(index_key[:GROUP_BYTES], ref)
        if self._source.get(Family.EXTERNAL, index_key) != id.encode() + owner_key:
            self._problem(
                "external", queue, f"the payload of message {id} in segment {ref.segment} is not noted as its own"
            )
        try:
            return self._read_payload(ref)
        except PayloadBroken as broken:
            self._problem("payload", queue, f"message {id} has lost its payload: {broken.reason} ({broken})")
            return None

    def _external(self, key: bytes, value: bytes) -> None:
        segment, number, kind, offset = KEY.unpack(key)
        queue = (self._with_letters if kind == DEAD_LETTER else self._queues).get(number)
        if queue is None:
            self._problem("no_queue", None, f"EXTERNAL has a payload of queue number {number}, but no such queue")
        elif not self._owned(kind, value[ID_CHARACTERS:], segment, offset):
            id = value[:ID_CHARACTERS].decode("ascii")
            self._problem(
                "external", queue, f"message {id} does not refer to the payload at {offset} of segment {segment}"
            )

    def _owned(self, kind: int, key: bytes, segment: int, offset: int) -> bool:
        """Whether the message at this key has this payload. Of a locked one, the sums tell."""
        if kind == DEAD_LETTER:
            value = self._source.get(Family.DEAD, key)
            record = None if value is None else records.unpack_dead_letter(value).record
        else:
            record = self._source.get(Family.MESSAGES, key)
            if record is None:
                return True  # it may be locked, and then the sums tell
        if record is None or not record[0] & EXTERNAL:
            return False
        ref = PayloadRef.unpack(record[PAYLOAD_AT : PAYLOAD_AT + REFERENCE_BYTES])
        return (ref.segment, ref.offset) == (segment, offset)

    def _digest(self, key: bytes, value: bytes) -> None:
        queue = self._owner(Family.DEDUP, key)
        if queue is None:
            return
        if not queue.refuses_duplicates:
            self._problem("digest", queue, "there is a digest, though duplicates are allowed")
        else:
            queue.digests -= 1

    # Sums

    def _compare_counts(self) -> None:
        for queue in self._queues.values():
            for what, counted, found in zip(("available", "locked", "dead"), queue.counted, queue.found, strict=True):
                if counted != found:
                    self._problem("count", queue, f"it counts {counted} {what}, but has {found}")
            if queue.digests < 0 and not queue.searching:
                self._problem("digest", queue, f"{-queue.digests} digests lead to messages that are gone")
            if queue.indexed > queue.letters_with_index:
                self._problem(
                    "dead_index",
                    queue,
                    f"the index has {queue.indexed} letters, and {queue.letters_with_index} are there",
                )


def _is_made(coder: KeyCoder, key: bytes, sequence: int) -> bool:
    """Whether a priority makes this key."""
    try:
        return coder.encode(coder.priority(key), sequence) == key
    except (struct.error, ValueError, InvalidPriority):
        return False


def _id(record: bytes) -> str:
    raw: bytes = records.unpack_message(record)[4]
    return raw.decode("ascii", errors="replace")
