"""Manifests of conversations: a record (record) and its media, its place in a file (reading), the index, rows on demand, parts, the check."""
