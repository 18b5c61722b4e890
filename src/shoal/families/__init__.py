"""How each kind of estimator is recognised, packed as columns and scored by which kernel."""
