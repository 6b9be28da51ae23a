"""Drive a deployed stack through a load and a crash, record what happens, and report it."""
