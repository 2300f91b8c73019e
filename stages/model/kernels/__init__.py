"""The network's arithmetic as LLVM IR: what is compiled when a model is loaded."""
