"""Training: the CWM model, data packing, stages, GRPO, Ray actors and the torch and vLLM policies.

Importing this package loads torch at most; ray and vllm are imported only by the modules that use them.
"""

if __name__ != "swegym.train":
    raise ImportError(f"import this package as 'swegym.train', not as {__name__!r}")
