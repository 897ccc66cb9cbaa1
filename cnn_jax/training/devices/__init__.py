"""One step on many devices: how it is spread, what they exchange, and processes."""
