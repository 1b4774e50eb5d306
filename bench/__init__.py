"""``python -m bench``: what the connection costs, beside its peers measured in the same run."""
