"""What tests use: real servers, fresh databases, clocks that can be turned, conformance suites."""
