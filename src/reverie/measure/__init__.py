"""Measures: how good samples are, how much of the data they cover, whether they are copies. Names are imported on first use."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reverie.measure.captions import CaptionScores, caption_scores
    from reverie.measure.clip import CLIP
    from reverie.measure.density import auroc, outliers
    from reverie.measure.disentangling import mutual_information_gap
    from reverie.measure.evaluation import evaluate
    from reverie.measure.extract import FeatureExtractor
    from reverie.measure.figures import Evaluation, Figure, Outliers
    from reverie.measure.frechet import frechet_distance, frechet_distance_of_moments, frechet_distance_to_moments
    from reverie.measure.inception import Inception
    from reverie.measure.judge import Judge
    from reverie.measure.kernel import kernel_distance
    from reverie.measure.neighbours import memorisation, nearest
    from reverie.measure.precision_and_recall import precision_recall
    from reverie.measure.reranking import reranked
    from reverie.measure.retrieval import PictureText, clip_score, matched
    from reverie.measure.statistics import Statistics
    from reverie.measure.towers import Towers

__all__ = [
    "CLIP",
    "CaptionScores",
    "Evaluation",
    "FeatureExtractor",
    "Figure",
    "Inception",
    "Judge",
    "Outliers",
    "PictureText",
    "Statistics",
    "Towers",
    "auroc",
    "caption_scores",
    "clip_score",
    "evaluate",
    "frechet_distance",
    "frechet_distance_of_moments",
    "frechet_distance_to_moments",
    "kernel_distance",
    "matched",
    "memorisation",
    "mutual_information_gap",
    "nearest",
    "outliers",
    "precision_recall",
    "reranked",
]

_HOME = {
    "CLIP": "clip",
    "CaptionScores": "captions",
    "Evaluation": "figures",
    "FeatureExtractor": "extract",
    "Figure": "figures",
    "Inception": "inception",
    "Judge": "judge",
    "Outliers": "figures",
    "PictureText": "retrieval",
    "Statistics": "statistics",
    "Towers": "towers",
    "auroc": "density",
    "caption_scores": "captions",
    "clip_score": "retrieval",
    "evaluate": "evaluation",
    "frechet_distance": "frechet",
    "frechet_distance_of_moments": "frechet",
    "frechet_distance_to_moments": "frechet",
    "kernel_distance": "kernel",
    "matched": "retrieval",
    "memorisation": "neighbours",
    "mutual_information_gap": "disentangling",
    "nearest": "neighbours",
    "outliers": "density",
    "precision_recall": "precision_and_recall",
    "reranked": "reranking",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"reverie.measure.{_HOME[name]}"), name)
