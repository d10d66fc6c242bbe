"""Experiments: the same network each time, a journal that can be taken up again, numbers that add up."""
