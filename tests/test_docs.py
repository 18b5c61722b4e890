"""The documents are true: what they show runs, and nothing a user can reach goes unmentioned."""
