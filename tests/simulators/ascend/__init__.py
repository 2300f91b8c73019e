"""An Ascend host and CANN, stood in for: what a machine without an NPU can prove of the NPU path."""
