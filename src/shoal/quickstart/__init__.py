"""``shoal quickstart``: five acts on real data that show what Shoal is for."""
