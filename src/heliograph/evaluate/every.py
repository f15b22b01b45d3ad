"""Every metric there is, in the order of the report: with weights and without, with ground truth and without."""

from heliograph.evaluate.catalogue import METRICS
from heliograph.evaluate.described import Described
from heliograph.evaluate.networks.names import NETWORK_METRICS
from heliograph.evaluate.truth_watch import TRUTH

EVERY: tuple[Described, ...] = (*TRUTH, *NETWORK_METRICS, *METRICS)
"""All of them."""
