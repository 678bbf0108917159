"""The Code World Model architecture in plain torch, equal to transformers' `CwmForCausalLM`."""
