"""Adds the reason phrases that Hypercorn leaves out of its responses, so that both paths answer alike.

Rule: only a status line is changed, and only the first bytes of a response are taken for one.
"""

from __future__ import annotations

from qrusty_trio.http.responses import reason_phrase


class ReasonPhrases:
    """The status lines of one connection."""

    def __init__(self) -> None:
        self._status: int | None = None
        """Status of the response that begins, until its status line is sent."""
        self._begun = False
        """The status line of the current response was sent."""

    def response_begins(self, status: int) -> None:
        """The app has begun a response."""
        self._status = status

    def response_ended(self) -> None:
        self._begun = False

    def complete(self, data: bytes) -> bytes:
        """What to send instead of `data`."""
        if self._status is not None:
            data = with_phrase(data, self._status)
            self._status = None
            self._begun = True
        elif not self._begun:
            # Hypercorn itself sends 100 Continue, or 101 for HTTP/2, before the response.
            data = with_phrase(with_phrase(data, 100), 101)
        return data


def with_phrase(data: bytes, status: int) -> bytes:
    """Add the reason phrase to an HTTP/1.1 response that lacks one. Anything else is returned unchanged."""
    line = b"HTTP/1.1 %d \r\n" % status
    if not data.startswith(line):
        return data
    return b"HTTP/1.1 %d %b\r\n%b" % (status, reason_phrase(status), data[len(line) :])
