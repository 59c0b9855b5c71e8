"""Exact linear maps between the embedding spaces of neural networks, at any number of rows.

Public names are imported when they are first used, so that importing crossgram stays cheap.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crossgram.accumulation import accumulate as accumulate
    from crossgram.atlases import Atlas as Atlas
    from crossgram.atlases import atlas as atlas
    from crossgram.atlases import load_atlas as load_atlas
    from crossgram.ceilings import Bench as Bench
    from crossgram.ceilings import bench as bench
    from crossgram.certificate import Certificate as Certificate
    from crossgram.comparison import Comparison as Comparison
    from crossgram.comparison import compare as compare
    from crossgram.curves import CurvePoint as CurvePoint
    from crossgram.curves import LearningCurve as LearningCurve
    from crossgram.curves import learning_curve as learning_curve
    from crossgram.errors import CorruptDataError as CorruptDataError
    from crossgram.errors import CrossgramError as CrossgramError
    from crossgram.errors import InputError as InputError
    from crossgram.errors import MemoryLimitError as MemoryLimitError
    from crossgram.errors import NonFiniteError as NonFiniteError
    from crossgram.errors import OutputExistsError as OutputExistsError
    from crossgram.errors import PairingError as PairingError
    from crossgram.errors import RunError as RunError
    from crossgram.errors import WidthMismatchError as WidthMismatchError
    from crossgram.estimator import LeastSquares as LeastSquares
    from crossgram.evaluation import ClassificationReport as ClassificationReport
    from crossgram.evaluation import IdentificationReport as IdentificationReport
    from crossgram.evaluation import VerificationReport as VerificationReport
    from crossgram.evaluation import classify as classify
    from crossgram.evaluation import identify as identify
    from crossgram.evaluation import verify as verify
    from crossgram.extraction import accumulate_images as accumulate_images
    from crossgram.extraction import extract as extract
    from crossgram.extraction import extract_with_report as extract_with_report
    from crossgram.fitting import fit as fit
    from crossgram.fitting import fit_with_report as fit_with_report
    from crossgram.fitting import plan_fit as plan_fit
    from crossgram.fitting import solve as solve
    from crossgram.folds import FoldedMoments as FoldedMoments
    from crossgram.folds import load_moments as load_moments
    from crossgram.heads import ClassifierHead as ClassifierHead
    from crossgram.heads import head_map as head_map
    from crossgram.heads import top_k_accuracy as top_k_accuracy
    from crossgram.history import Operation as Operation
    from crossgram.images import Recipe as Recipe
    from crossgram.ingestion import ingest as ingest
    from crossgram.integrity import StoreCheck as StoreCheck
    from crossgram.integrity import check_store as check_store
    from crossgram.linear_map import LinearMap as LinearMap
    from crossgram.mapping import apply as apply
    from crossgram.moments import Moments as Moments
    from crossgram.pca import PrincipalComponents as PrincipalComponents
    from crossgram.pca import principal_components as principal_components
    from crossgram.plan import Plan as Plan
    from crossgram.progress import Progress as Progress
    from crossgram.reduced_rank import rank_curve as rank_curve
    from crossgram.reporting import write_report as write_report
    from crossgram.revision import Revision as Revision
    from crossgram.revision import add_rows as add_rows
    from crossgram.revision import merge_moments as merge_moments
    from crossgram.revision import subtract_moments as subtract_moments
    from crossgram.revision import subtract_rows as subtract_rows
    from crossgram.ridge import RidgePath as RidgePath
    from crossgram.ridge import ridge_path as ridge_path
    from crossgram.spaces import Space as Space
    from crossgram.store import EmbeddingStore as EmbeddingStore
    from crossgram.synthesis import synth as synth
    from crossgram.verification import PairScores as PairScores
    from crossgram.verification import Roc as Roc
    from crossgram.verification import area_under_curve as area_under_curve
    from crossgram.verification import equal_error_rate as equal_error_rate
    from crossgram.verification import pair_scores as pair_scores
    from crossgram.verification import roc_curve as roc_curve
    from crossgram.verification import true_accepts_at as true_accepts_at

__version__ = "0.1.0"

_HOME = {
    "accumulate": "accumulation",
    "Atlas": "atlases",
    "atlas": "atlases",
    "load_atlas": "atlases",
    "Bench": "ceilings",
    "bench": "ceilings",
    "Certificate": "certificate",
    "Comparison": "comparison",
    "compare": "comparison",
    "CurvePoint": "curves",
    "LearningCurve": "curves",
    "learning_curve": "curves",
    "CorruptDataError": "errors",
    "CrossgramError": "errors",
    "InputError": "errors",
    "MemoryLimitError": "errors",
    "NonFiniteError": "errors",
    "OutputExistsError": "errors",
    "PairingError": "errors",
    "RunError": "errors",
    "WidthMismatchError": "errors",
    "LeastSquares": "estimator",
    "ClassificationReport": "evaluation",
    "IdentificationReport": "evaluation",
    "VerificationReport": "evaluation",
    "classify": "evaluation",
    "identify": "evaluation",
    "verify": "evaluation",
    "accumulate_images": "extraction",
    "extract": "extraction",
    "extract_with_report": "extraction",
    "fit": "fitting",
    "fit_with_report": "fitting",
    "plan_fit": "fitting",
    "solve": "fitting",
    "FoldedMoments": "folds",
    "load_moments": "folds",
    "ClassifierHead": "heads",
    "head_map": "heads",
    "top_k_accuracy": "heads",
    "Recipe": "images",
    "ingest": "ingestion",
    "Operation": "history",
    "check_store": "integrity",
    "StoreCheck": "integrity",
    "LinearMap": "linear_map",
    "apply": "mapping",
    "Moments": "moments",
    "principal_components": "pca",
    "PrincipalComponents": "pca",
    "Plan": "plan",
    "Progress": "progress",
    "rank_curve": "reduced_rank",
    "write_report": "reporting",
    "RidgePath": "ridge",
    "ridge_path": "ridge",
    "Revision": "revision",
    "add_rows": "revision",
    "merge_moments": "revision",
    "subtract_moments": "revision",
    "subtract_rows": "revision",
    "Space": "spaces",
    "EmbeddingStore": "store",
    "synth": "synthesis",
    "area_under_curve": "verification",
    "equal_error_rate": "verification",
    "pair_scores": "verification",
    "PairScores": "verification",
    "Roc": "verification",
    "roc_curve": "verification",
    "true_accepts_at": "verification",
}

__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'crossgram' has no attribute {name!r}")
    return getattr(importlib.import_module(f"crossgram.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
