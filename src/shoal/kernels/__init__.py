"""Compiled loops over arrays: affine, kernel machine, trees, and the column-transform stage before them."""
