"""The rules of lending: leases, admission, budget changes. No input or output, no AWS, no driver."""
