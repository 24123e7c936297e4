"""How bytes get in and out: the listener, the two HTTP lanes and the WebSocket carriers."""
