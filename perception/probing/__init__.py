"""What can be read from the features of a frozen Vision Transformer."""
