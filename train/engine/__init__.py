"""Serving a CWM with vLLM: the engine, its Ray actor, the policy over one or several of them, weight publication.

Nothing here imports vllm or ray before an engine or an actor is started.
"""
