"""What a cloud team runs or imports: verify, apply exactly once, find gaps, acknowledge."""
