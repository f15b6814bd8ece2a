"""Datasets: one folder each, with a README and a prepare.py that writes the common layout (perception.layout)."""
