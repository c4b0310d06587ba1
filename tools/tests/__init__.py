"""Tests of tools/: make test-tools."""
