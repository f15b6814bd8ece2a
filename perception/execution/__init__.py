"""How a model file is executed: looked at, given to a provider, run."""
