"""Evaluation: reading from videos what is in them, and comparing that with what was asked for."""
