"""The rules of leases: grants, refusals, budget changes. No input or output, no AWS, no driver."""
