"""What `violet speed` measures, and the plain formulations beside it."""
