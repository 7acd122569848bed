"""From a trained network to one that is cheap to run."""

from convblocks.deploy.fuse import fuse
from convblocks.deploy.report import FusionReport

__all__ = ["FusionReport", "fuse"]
