"""Shoal: inference for many models. A fleet is a table of parameters, and scoring is a join."""
