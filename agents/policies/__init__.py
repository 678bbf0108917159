"""Policies without torch: scripted, oracle, replay, human and OpenAI-compatible endpoints."""
