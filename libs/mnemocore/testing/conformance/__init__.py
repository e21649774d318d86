"""Suites that every engine of a port passes; a test module inherits one and names its engine."""
