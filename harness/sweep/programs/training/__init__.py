"""Sweeps over our own training: `python run.py -m`."""
