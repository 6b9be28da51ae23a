"""Starts what the tests and the demo need on this machine, and deploys the template to it."""
