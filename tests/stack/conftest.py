"""The deployed stack that these tests share, and the means to look at it from outside."""
