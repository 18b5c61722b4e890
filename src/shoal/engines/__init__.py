"""Where tasks run; engines know nothing of fleets."""
