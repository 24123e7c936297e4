"""Storage: the ordered key-value map that holds everything, and its backends."""
