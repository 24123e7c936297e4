"""What a request means: bytes in, bytes out. No sockets, no Trio.

Requirements: SYS-0021
"""
