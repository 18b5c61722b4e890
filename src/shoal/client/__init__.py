"""What asks a Shoal server over the network, with the interface of a workspace."""
