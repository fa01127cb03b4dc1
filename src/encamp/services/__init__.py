"""Services: objects that live on a cluster, each server in a slot, called from anywhere."""
