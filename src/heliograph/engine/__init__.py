"""Where a model runs and how requests share it."""
