"""The daemon: the VIF, DNS, the tunnels into the cluster, and the life cycle of engagements, in one container per connection."""
