"""One module an operation: all that Python knows of it. What they share stands beside them."""
