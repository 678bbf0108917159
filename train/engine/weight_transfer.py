"""How new weights reach vLLM's workers: a "file" backend of vLLM's own weight transfer interface.

vLLM ships backends that need accelerators (nccl, ipc). This one reads a Hugging Face safetensors folder, which works on
any device. The module is imported by vLLM inside its worker processes, because `worker_extension_cls` names it.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import safe_open
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

from swegym.train.engine.config import WEIGHT_BACKEND

__all__ = ["FileUpdateInfo", "FileWeightTransferEngine", "WorkerExtension"]

ORPHAN_CHECK_S = 1.0


@dataclass
class FileInitInfo(WeightTransferInitInfo):  # type: ignore[misc]
    """A file needs no handshake."""


@dataclass
class FileUpdateInfo(WeightTransferUpdateInfo):  # type: ignore[misc]
    """One whole update.

    `files` are safetensors files that hold exactly the tensors called `names`.
    """

    files: list[str]
    names: list[str]


class FileWeightTransferEngine(WeightTransferEngine):  # type: ignore[misc]
    """Loads safetensors files into the running model, layer by layer."""

    init_info_cls = FileInitInfo
    update_info_cls = FileUpdateInfo

    def __init__(self, *args: Any) -> None:
        """Made by vLLM once the model is loaded."""
        super().__init__(*args)
        # An engine process does not notice that its parent was killed, and would live on for ever.
        threading.Thread(target=_end_with, args=(os.getppid(),), name="swegym-orphan-check", daemon=True).start()

    def init_transfer_engine(self, init_info: FileInitInfo) -> None:
        """Nothing to set up."""

    def start_weight_update(self) -> None:
        """Take the model's tensors aside; from here on it cannot serve until finish_weight_update."""
        initialize_layerwise_reload(self.model)

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """Load one update. Overridden because the base class synchronizes an accelerator, which a CPU is not."""
        self.receive_weights(self.parse_update_info(update_info))
        if self.device.type != "cpu":
            torch.accelerator.synchronize()

    def receive_weights(self, update_info: FileUpdateInfo) -> None:
        """Raises ValueError when the files do not hold exactly the expected tensors."""
        seen: list[str] = []

        def weights() -> Iterator[tuple[str, torch.Tensor]]:
            for file in update_info.files:
                with safe_open(file, framework="pt") as tensors:
                    for name in tensors.keys():  # noqa: SIM118 (not a mapping)
                        seen.append(name)
                        yield name, tensors.get_tensor(name)

        self.model.load_weights(weights())
        if sorted(seen) != sorted(update_info.names):
            wrong = sorted(set(seen) ^ set(update_info.names)) or ["a tensor came twice"]
            raise ValueError(f"the files hold other tensors than the model: {', '.join(wrong[:5])}")

    def finish_weight_update(self) -> None:
        """Put the loaded tensors in place."""
        finalize_layerwise_reload(self.model, self.model_config)

    def shutdown(self) -> None:
        """Nothing is held open."""


class WorkerExtension:
    """Mixed into vLLM's worker class. It adds nothing: naming it is what makes a worker import this module."""


def _end_with(parent_pid: int) -> None:
    while os.getppid() == parent_pid:
        time.sleep(ORPHAN_CHECK_S)
    os._exit(1)


WeightTransferEngineFactory.register_engine(WEIGHT_BACKEND, FileWeightTransferEngine)
