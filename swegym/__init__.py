"""swegym: agentic software-engineering environments and GRPO on the Code World Model architecture, in the open.

`import swegym` registers every env with Gymnasium by name and loads neither torch, vllm, ray nor docker.
"""

from swegym.core.registration import register

__all__ = ["__version__", "register"]
__version__ = "0.1.0"
