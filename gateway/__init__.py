"""Clinical edge gateway: bytes in, made durable, only then acknowledged, delivered with proof."""

__version__ = "0.1.0"
