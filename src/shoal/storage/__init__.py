"""Files, folders and SQL databases behind small interfaces."""
