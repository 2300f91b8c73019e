"""The recogniser: architecture, weights, and how it is run."""
