"""Who may do what: principals, roles, API keys, the permission table, signatures. Pure: no storage, no network."""
