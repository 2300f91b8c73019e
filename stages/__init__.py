"""The container side: one module a stage, run as `python -m stages.NAME`, on Python 3.7 and up."""
