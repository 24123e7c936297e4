"""A delivered message as its consumer gets it over HTTP.

Rule: unless asked for more, it has the fields of the contract, and no others.
"""

from __future__ import annotations

import msgspec

from qrusty_trio.core.model import Delivery

_encode = msgspec.json.encode


def encoded(delivery: Delivery, details: bool = False, queue: str | None = None) -> bytes:
    """The JSON of a delivered message. `details`: with its priority, and its times in wall milliseconds.

    `queue`: its name, if that is to be told.
    """
    plain = b'{"id":"%b","payload":%b,"retry_count":%d}' % (
        delivery.id.encode(),
        _encode(delivery.payload),
        delivery.retry_count,
    )
    if not details and queue is None:
        return plain
    more = b""
    if queue is not None:
        more = b',"queue":%b' % _encode(queue)
    if details:
        more += b',"priority":%b,"created_at":%d,"lock_until":%d' % (
            _encode(delivery.priority),
            delivery.created_ms,
            delivery.expires_at_ms,
        )
    return b"%b%b}" % (plain[:-1], more)
