"""Sweeps: one request per cell of a matrix, equal steps once, one page over all of it."""
