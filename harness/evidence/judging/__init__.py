"""A referee for tuning that keeps or discards one change after another: is the last one better than the noise?"""
