"""Stands in for ais_bench 0.0.2 where its wheel is not given: the options that the guide uses, its names and lines."""
