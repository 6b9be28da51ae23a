"""Drives a deployed stack through a load and a crash, records what happens, and reports it."""
