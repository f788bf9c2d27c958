"""PEFT adapters: the configuration against a closed schema, every tensor claimed, every variant reduced to factors."""
