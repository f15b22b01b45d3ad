"""The three training stages, adapt, multiscale and distill, their losses, and the one loop that runs them.

Stages reach the method only through `sample`, `memory`, `flow` and `model`; none knows the engine or the server.
"""
