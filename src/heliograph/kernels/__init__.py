"""The memory-bound steps of a block: in plain PyTorch, fused in Triton, and the choice between the two."""
