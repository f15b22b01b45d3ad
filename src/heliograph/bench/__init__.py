"""Measuring: end-to-end speed and memory, side by side with diffusers, on the machine at hand."""
