"""The transformer: tokens from latents, attention, rotary positions, blocks. It knows no sampler."""
