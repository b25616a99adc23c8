"""EquiformerV3 beside the published way to compute it, and beside what the processor could do."""
