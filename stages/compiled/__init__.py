"""LLVM IR: written as text, compiled in memory for the processor at hand."""
