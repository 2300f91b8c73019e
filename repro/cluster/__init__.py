"""Slurm: what this site's cluster is like, its commands, and the executor that makes nodes of the graph its jobs."""
