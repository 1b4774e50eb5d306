"""What runs in a pod: dials out, relays DNS, takes inbound traffic, exports environment and files."""
