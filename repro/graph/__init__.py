"""The stage graph: what the stages are, their fingerprints, the store of results, the runner."""
