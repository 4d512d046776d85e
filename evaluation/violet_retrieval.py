"""For `evaluate`: recall and ranks of a search, both ways."""

import datasets
import evaluate
import torch

from violet.evaluation.retrieval import retrieval_metrics  # `evaluate` copies this file out of the package


class VioletRetrieval(evaluate.Metric):
    """`evaluate.load(violet.evaluation.module_path("retrieval"))`"""

    def _info(self):
        return evaluate.MetricInfo(
            description="The numbers of `violet.evaluation.retrieval.retrieval_measures`.",
            citation="",
            inputs_description="predictions: each text's score with every video; references: the number of its video.",
            features=datasets.Features(
                {"predictions": datasets.Sequence(datasets.Value("float32")), "references": datasets.Value("int64")}
            ),
        )

    def _compute(self, predictions, references, use_dual_softmax=False):
        return retrieval_metrics(torch.tensor(predictions), torch.tensor(references), use_dual_softmax)
