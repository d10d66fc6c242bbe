"""The benchmarks under test: what they make of a run; not how quick this machine is."""
