"""What a request means: bytes in, bytes out. No sockets, no Trio."""
