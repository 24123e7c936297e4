"""What the fast path is going to send, before it is bytes."""

from __future__ import annotations

import msgspec

from qrusty_trio.api.call import Reply
from qrusty_trio.http.header_block import HeaderBlock
from qrusty_trio.http.request_line import NOT_KNOWN
from qrusty_trio.http.responses import header_lines
from qrusty_trio.http.webui import WebFile, file_response


class PendingResponse(msgspec.Struct, frozen=True, gc=False):
    """A response that is to be sent."""

    reply: Reply | None = None
    """None: that of the next call."""
    extra: bytes = b""
    """Further header lines, each preceded by CR LF."""
    head_only: bool = False
    """Without its body."""
    json: bool = True
    """A body is JSON."""
    asked: tuple[str, str] = NOT_KNOWN
    """Method and path, for the access log, if there is no call."""


PLAIN = PendingResponse()


def pending_file(
    file: WebFile, block: HeaderBlock, extra: bytes, head_only: bool, asked: tuple[str, str]
) -> PendingResponse:
    """The response to a request for a file of the web UI. `extra`, `asked`: as in `PendingResponse`."""
    response = file_response(file, block.none_match, block.takes_gzip)
    extra += header_lines(response.headers)
    if block.identity is not None:
        extra += block.identity.header
    # The length of a 304 is that of the body that it spares.
    return PendingResponse(
        Reply(response.status, response.body), extra, head_only or response.status == 304, json=False, asked=asked
    )
