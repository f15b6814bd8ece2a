"""Self-supervised pretraining of a plain Vision Transformer on frames without labels."""
