"""Training a network while its channels go: epochs, removals, and what is learnt from."""
