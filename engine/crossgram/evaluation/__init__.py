"""Evaluation: what recognition a map keeps."""

from crossgram.evaluation.accuracy import FoldedAccuracy, folded_accuracy
from crossgram.evaluation.pair_list import PairList, all_pairs, read_pairs
from crossgram.evaluation.resampling import Interval
from crossgram.evaluation.splits import Overlap
from crossgram.evaluation.verifying import Verification, VerificationReport, verify

__all__ = [
    "FoldedAccuracy",
    "Interval",
    "Overlap",
    "PairList",
    "Verification",
    "VerificationReport",
    "all_pairs",
    "folded_accuracy",
    "read_pairs",
    "verify",
]
