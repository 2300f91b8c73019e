"""The container side: one module a stage, run as `python -m stages.NAME`. Python 3.7 and up; knows nothing of engines."""
