"""The tools of SweEnv, one small file each. A tool knows a sandbox and a task, and neither a model nor a protocol."""
