"""What is in a dataset: counts, sizes, pictures of labelled samples, and what looks wrong. No torch, no network."""
