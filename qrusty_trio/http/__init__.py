"""How bytes get in and out: the listener, HTTP on the fast path and the fallback, and the WebSocket transports."""
