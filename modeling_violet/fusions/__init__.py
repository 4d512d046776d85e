"""Fusions: what joins video and text. A new one is a file here and a line of `FUSIONS`."""

from .bert_fusion import record_received_attention
from .fusion import FUSIONS, Fusion, build_fusion, find_fusion

__all__ = ["FUSIONS", "Fusion", "build_fusion", "find_fusion", "record_received_attention"]
