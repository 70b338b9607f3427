"""Floor 3, concepts: what a class is made of, as directions at a layer. Knows lrp and evaluate; knows no unlearning."""

from zsu_fast.concepts.bank import ConceptBank, concept_bank
from zsu_fast.concepts.bottleneck import Bottleneck, concept_bottleneck
from zsu_fast.concepts.clip import clip_bank
from zsu_fast.concepts.explanation import Explanation, explain_class
from zsu_fast.concepts.gradients import Integrated, agreement, integrated_gradients
from zsu_fast.concepts.reading import Reading, activations
from zsu_fast.concepts.relevance_concepts import RelevanceConcept, as_bank, relevance_concepts

__all__ = [
    "Bottleneck",
    "ConceptBank",
    "Explanation",
    "Integrated",
    "Reading",
    "RelevanceConcept",
    "activations",
    "agreement",
    "as_bank",
    "clip_bank",
    "concept_bank",
    "concept_bottleneck",
    "explain_class",
    "integrated_gradients",
    "relevance_concepts",
]
