"""The documents that describe the API to programs: OpenAPI for HTTP, AsyncAPI for the WebSocket.

Rule: they are made when this is imported, before there is an event loop, as that takes 25 ms.

Requirements: API-0110, API-0113
"""

from __future__ import annotations

from typing import Final

from qrusty_trio.api.description import asyncapi, openapi
from qrusty_trio.http.webui import Files, web_file

DOCUMENTS: Final[Files] = {
    b"/openapi.json": web_file("openapi.json", openapi.encoded()),
    b"/asyncapi.json": web_file("asyncapi.json", asyncapi.encoded()),
}
"""Path -> document. `request_line` has the same paths."""
