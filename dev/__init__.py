"""A node on one's own machine: what the demo, the tests and the benchmarks run on."""
