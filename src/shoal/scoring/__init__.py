"""The one path from rows and a table of models to predictions and outcomes."""
