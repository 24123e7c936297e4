"""Segment files as a whole: a look at those of earlier processes, their sync, and removal."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterable
from pathlib import Path

from qrusty_trio.errors import StartupRefused
from qrusty_trio.storage import payload_format as form
from qrusty_trio.storage.files import Directory, Opened

GONE_FOR_GOOD = frozenset({errno.EIO, errno.EUCLEAN, errno.EBADMSG, errno.EILSEQ, errno.ENODATA})
"""Read errors that mean the disk lost the bytes. Others (no descriptors, no memory) are transient: no message may be
removed because of them."""

KNOWN = "SEGMENTS"
"""An empty file in the payload directory, made before any segment is. An empty directory that has none is not the one
that was used before: perhaps a disk is not mounted."""

log = logging.getLogger(__name__)


def claim(path: Path, *, used: bool) -> None:
    """Make sure that this is the payload directory of the store. `used`: records refer to segments.

    Blocks. Raises StartupRefused, and nothing was removed.

    Requirements: PER-0070
    """
    try:
        is_known = any(form.list_segments(path)) or (path / KNOWN).exists()
    except OSError as error:
        raise StartupRefused(f"The payload directory {path} cannot be used: {error.strerror}.") from error
    if is_known:
        return
    if used:
        raise StartupRefused(
            f"Messages have their payloads in {path}, but there are none: another directory is in its place, or its "
            f"disk is not mounted. Put the right one back. If it is lost for good, make an empty file {KNOWN} in "
            f"{path}: the next start then removes each message without its payload."
        )
    try:
        directory = Directory(os.open(path, os.O_RDONLY | os.O_DIRECTORY))
        os.close(directory.open(KNOWN, os.O_WRONLY | os.O_CREAT))
        directory.sync()
    except OSError as error:
        # A full disk. Nothing is lost: no message has its payload here yet.
        log.warning("%s could not be made, a later start tries again: %s", path / KNOWN, error.strerror)


def what_is_wrong(number: int, least: int, directory: Directory) -> str | None:
    """What is wrong with a segment that should have at least `least` bytes. Raises OSError if it can't be read now."""
    try:
        reader = Opened(directory.open(form.segment_name(number), os.O_RDONLY))
        if os.fstat(reader.descriptor).st_size < least:
            return form.SHORT_SEGMENT
        header = os.pread(reader.descriptor, form.HEADER_BYTES, 0)
    except FileNotFoundError:
        return form.MISSING_SEGMENT
    except OSError as error:
        if error.errno in GONE_FOR_GOOD:
            return form.UNREADABLE
        raise
    return None if form.header_is_sound(header, number) else form.DAMAGED_HEADER


def sync_files(numbers: Iterable[int], directory: Directory) -> None:
    """Sync segments, and their names. Blocks. Raises OSError."""
    for number in numbers:
        file = Opened(directory.open(form.segment_name(number), os.O_RDONLY))
        os.fdatasync(file.descriptor)
    directory.sync()


def delete(number: int, directory: Directory, mark: int | None) -> None:
    """Delete a segment. Blocks. Raises OSError.

    `mark`: the number that is marked as the highest so far, if this segment is to take its place; else None.
    """
    if mark is not None:
        os.close(directory.open(form.mark_name(number), os.O_WRONLY | os.O_CREAT))
        directory.sync()
        directory.unlink(form.mark_name(mark))
    directory.unlink(form.segment_name(number))
    directory.sync()
