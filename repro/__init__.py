"""The host side of the reproducibility bundle: locks, layers, images, engines, graph, store, record, verdict."""
