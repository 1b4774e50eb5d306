"""A real one-node Kubernetes in one container, for whoever has no cluster, and for the tests; with a sample application."""
