"""The ordered key-value map that everything is kept in, and its backends."""
