"""Manifests of conversations: what a record holds (record), its place in a file (reading), the index (index), rows on demand (rows), parts."""
