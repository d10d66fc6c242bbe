"""Side-by-side benchmarks, one command each: `python -m bench round`, `consensus`, `verify`, `lag`."""
