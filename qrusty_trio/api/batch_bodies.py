"""The messages of a publish-batch, over HTTP and WebSocket: what may be in them, and what msgspec overlooks there.

Rule: a batch is refused as a whole for its shape, before any message of it is published. As in `api.json_bodies`,
counting quotation marks clears the usual batch. Only a batch with more of them is examined message by message.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Final

import msgspec

from qrusty_trio.api.json_bodies import SPARE_STRINGS, Names, has_escaped_name, look_closer, names_of
from qrusty_trio.api.json_faults import malformed
from qrusty_trio.core.model import MAX_BATCH_MESSAGES, U32_MAX, U64_MAX
from qrusty_trio.errors import WrongShape

TOO_MANY_MESSAGES = f"may hold at most {MAX_BATCH_MESSAGES} messages"
"""The end of a sentence that starts with the field's name."""
PER_STEP = 256
"""Messages published, or examined, in one step, which takes about 1 ms."""
_QUOTES: Final = 10
"""Most quotation marks around the names and values of a message. Those inside of a value are escaped."""

MESSAGE_FIELDS: Final = {
    "messages": f"a list of at most {MAX_BATCH_MESSAGES} objects",
    "messages[]": "an object",
    "messages[].priority": f"an integer from 0 to {U64_MAX} or a string",
    "messages[].payload": "a string",
    "messages[].max_retries": f"an integer from 0 to {U32_MAX}",
}
"""What each field may be, for the text of a refusal."""


class NewMessage(msgspec.Struct, gc=False):
    priority: int | str
    payload: str
    max_retries: Annotated[int, msgspec.Meta(ge=0, le=U32_MAX)] | None = None


_MESSAGE = names_of(NewMessage)
_split_list = msgspec.json.Decoder(list[msgspec.Raw]).decode


def surely_too_many(body: bytes) -> bool:
    """Whether a body has more strings than a batch may have. Decoding 80,000 messages takes 20 ms, counting 1 ms."""
    most = _QUOTES * MAX_BATCH_MESSAGES + 2 * SPARE_STRINGS
    quotes = body.count(b'"')
    return quotes > most and quotes - body.count(b'\\"') > most


def quotes_of(messages: list[NewMessage]) -> int:
    """The quotation marks around the names and values of these messages. Raises WrongShape for a priority."""
    quotes = 6 * len(messages)
    for index, message in enumerate(messages):
        priority = message.priority
        if type(priority) is str:
            quotes += 2
        elif not 0 <= priority <= U64_MAX:  # type: ignore[operator]  # it is an int
            raise WrongShape(f"'messages[{index}].priority' must be {MESSAGE_FIELDS['messages[].priority']}")
        if message.max_retries is not None:
            quotes += 2
    return quotes


def look_closer_at_messages(body: bytes, names: Names, messages: list[NewMessage]) -> Iterator[None]:
    """Refuse a field that is given twice, in a body that was decoded. Raises MalformedJson or WrongShape.

    `names`: those beside and inside of the messages. Yields between pieces of about a millisecond.
    """
    try:
        if not body.isascii():
            body.decode()
    except UnicodeDecodeError as error:
        raise malformed(error, body) from None
    if not has_escaped_name(body):
        wanted = dict.fromkeys(names.quoted, 1) | {
            b'"priority"': len(messages),
            b'"payload"': len(messages),
            b'"max_retries"': sum(message.max_retries is not None for message in messages),
        }
        if all(body.count(name) <= most for name, most in wanted.items()):
            return
    whole = bytes(getattr(names.split(body), "messages"))  # noqa: B009  # made from the names
    # Without the messages. Their list may stand elsewhere in the body, but then it is a value there, too.
    look_closer(body.replace(whole, b"[]"), names)
    yield
    for index, raw in enumerate(_split_list(whole)):
        look_closer(bytes(raw), _MESSAGE, parent=f"messages[{index}].")
        if index % PER_STEP == PER_STEP - 1:
            yield
