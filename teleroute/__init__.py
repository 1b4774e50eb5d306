"""Teleroute: the Docker network driver that attaches containers to a daemon's VIF."""
