"""Evaluation: what recognition a map keeps."""

from crossgram.evaluation.accuracy import FoldedAccuracy, folded_accuracy
from crossgram.evaluation.classifying import Classification, ClassificationReport, classify
from crossgram.evaluation.identifying import (
    Identification,
    IdentificationReport,
    OpenSetPoint,
    identify,
)
from crossgram.evaluation.measuring import Verification
from crossgram.evaluation.pair_list import PairList, all_pairs, read_pairs
from crossgram.evaluation.resampling import Interval
from crossgram.evaluation.splits import Overlap
from crossgram.evaluation.templates import (
    Pooling,
    Templates,
    read_template_pairs,
    read_templates,
)
from crossgram.evaluation.verifying import VerificationReport, verify

__all__ = [
    "Classification",
    "ClassificationReport",
    "FoldedAccuracy",
    "Identification",
    "IdentificationReport",
    "Interval",
    "OpenSetPoint",
    "Overlap",
    "PairList",
    "Pooling",
    "Templates",
    "Verification",
    "VerificationReport",
    "all_pairs",
    "classify",
    "folded_accuracy",
    "identify",
    "read_pairs",
    "read_template_pairs",
    "read_templates",
    "verify",
]
