"""Forgetting in language models: records of what must go, which of its words are sensitive, and the request."""

from zsu_fast.unlearn.texts.records import TextRecord, read_records
from zsu_fast.unlearn.texts.request import ForgetText, TextEvaluation
from zsu_fast.unlearn.texts.words import STOP_WORDS, poisoned, sensitive_words

__all__ = ["STOP_WORDS", "ForgetText", "TextEvaluation", "TextRecord", "poisoned", "read_records", "sensitive_words"]
