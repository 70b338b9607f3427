"""Floor 3, concepts: what a class is made of, as directions at a layer. Knows lrp and evaluate; knows no unlearning."""

from zsu_fast.concepts.bank import ConceptBank, concept_bank
from zsu_fast.concepts.reading import Reading, activations

__all__ = ["ConceptBank", "Reading", "activations", "concept_bank"]
