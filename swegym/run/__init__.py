"""Composition without torch: episodes, rollouts, evaluation, replay."""
