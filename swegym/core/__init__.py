"""The contracts that every room of the house speaks: the leaf of the import graph.

Nothing in here imports torch, vllm, ray or docker, nor any other part of swegym.
"""
