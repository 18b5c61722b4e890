"""Fit a model per segment, evaluate it, and choose it or its fallback."""
