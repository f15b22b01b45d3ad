"""Metrics that need a network: HeliosBench's aesthetic score, motion smoothness, semantics and naturalness."""
