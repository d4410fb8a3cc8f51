"""Tests in a real browser: a package, so that its conftest and the other one have two names."""
