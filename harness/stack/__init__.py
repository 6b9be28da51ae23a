"""Start what the tests and the demo need on this machine, and deploy the template to it."""
