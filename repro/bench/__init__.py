"""`invoke bench`: speed as ratios that were measured in one run on one machine, each beside a check of its outputs."""
