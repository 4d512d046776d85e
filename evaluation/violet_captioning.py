"""For `evaluate`: BLEU, ROUGE-L, METEOR, CIDEr and CIDEr-D of written captions."""

import datasets
import evaluate

from violet.evaluation.captions import caption_metrics  # `evaluate` copies this file out of the package


class VioletCaptioning(evaluate.Metric):
    """`evaluate.load(violet.evaluation.module_path("captioning"))`"""

    def _info(self):
        return evaluate.MetricInfo(
            description="The numbers of `violet.evaluation.captions.caption_scores`.",
            citation="",
            inputs_description="predictions: a caption for each video; references: the captions that people gave it.",
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.Sequence(datasets.Value("string"))}
            ),
        )

    def _compute(self, predictions, references):
        return caption_metrics(predictions, references)
