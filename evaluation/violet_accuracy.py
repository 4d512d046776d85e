"""For `evaluate`: how often the right answer comes first, and among the first five."""

import datasets
import evaluate

from violet.evaluation.answers import answer_measures  # `evaluate` copies this file out of the package


class VioletAccuracy(evaluate.Metric):
    """`evaluate.load(violet.evaluation.module_path("accuracy"))`"""

    def _info(self):
        return evaluate.MetricInfo(
            description="The numbers of `violet.evaluation.answers.answer_measures`.",
            citation="",
            inputs_description="predictions: the answers to each question, best first; references: the right answer.",
            features=datasets.Features(
                {"predictions": datasets.Sequence(datasets.Value("string")), "references": datasets.Value("string")}
            ),
        )

    def _compute(self, predictions, references):
        def plain(answer):
            return " ".join(answer.lower().split())

        places, truths = [], [plain(reference) for reference in references]
        for answers, truth in zip(predictions, truths, strict=True):
            said = [plain(answer) for answer in answers]
            places.append(said.index(truth) + 1 if truth in said else float("inf"))
        measures = answer_measures(places, answers=truths)
        return {name: measure.value() for name, measure in measures.items()}
