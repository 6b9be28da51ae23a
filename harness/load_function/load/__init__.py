"""The harness function: a measured load on the worker function, every invocation accounted for."""
