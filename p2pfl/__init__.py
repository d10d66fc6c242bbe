"""A peer of a grouped federated-learning network whose participants need not trust one another."""

__version__ = "0.1.0"
