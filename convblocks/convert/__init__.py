"""Weights of other libraries' blocks, and of whole networks of them, in blocks of this one."""

from convblocks.convert.report import ConversionReport
from convblocks.convert.state_dict import convert_state_dict

__all__ = ["ConversionReport", "convert_state_dict"]
