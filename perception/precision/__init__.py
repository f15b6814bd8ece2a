"""An exported fp32 file -> a faster one with the same input and outputs: fp16, or int8 by blocks."""
