"""Facts about this machine: processor, memory, control groups, NPU, emulation."""
