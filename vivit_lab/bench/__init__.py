"""Benchmarks that users run on their own machine: the tables of the documentation, and what the README quotes."""
