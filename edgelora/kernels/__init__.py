"""The LoRA delta. Today the numpy reference; a native kernel is tested against it."""
