"""What tests share and is no reference."""
