"""Text work: what a document is about, its sentences in short, names and addresses out of the way."""

import re
from collections import Counter
from collections.abc import Generator
from typing import Any

_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[\"'“‘(]?[A-Z0-9])")
_EMAIL = re.compile(r"\b[\w.+-]+@[\w-]+(?:\.[\w-]+)+\b")
_PHONE = re.compile(r"(?<!\w)\+?\d[\d\s().-]{6,}\d(?!\w)")
_IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b")

# The commonest English function words: they tell nothing of what a text is about.
_STOP_WORDS = frozenset(
    """
    a about after all also an and any are as at be because been but by can could did do does for from had has have he
    her his how i if in into is it its just like more most my no not now of on one only or other our out over she so
    some such than that the their them then there these they this to two up was we were what when which who will with
    would you your
    """.split()
)


def word_count(text: str) -> dict[str, Any]:
    """Counts words, sentences and characters, and the minutes an adult takes to read them.

    The reading speed is 238 words per minute: M. Brysbaert, "How many words do we read per minute? A review and
    meta-analysis of reading rate", Journal of Memory and Language 109 (2019).
    """
    words = len(_WORD.findall(text))
    return {
        "words": words,
        "sentences": len(_sentences(text)),
        "characters": len(text),
        "reading_minutes": round(words / 238, 2),
    }


def keywords(text: str, limit: int = 5) -> list[str]:
    """The words that a text is about: its most frequent ones but for function words, ties in order of appearance."""
    words = (word.lower() for word in _WORD.findall(text))
    counted = Counter(word for word in words if len(word) > 2 and word not in _STOP_WORDS)
    return [word for word, _ in counted.most_common(max(limit, 0))]


def summarize(text: str, sentences: int = 2) -> dict[str, Any]:
    """The sentences that say most of what a text says, in their own order.

    Each sentence is scored by the mean frequency of its content words (H. P. Luhn, "The Automatic Creation of
    Literature Abstracts", IBM Journal of Research and Development 2 (1958)).
    """
    found = _sentences(text)
    frequency = Counter(_content_words(text))
    scores = {
        position: sum(frequency[word] for word in words) / len(words)
        for position, sentence in enumerate(found)
        if (words := _content_words(sentence))
    }
    best = sorted(sorted(scores, key=lambda position: -scores[position])[: max(sentences, 0)])
    summary = " ".join(found[position] for position in best)
    return {"summary": summary, "compression": round(len(summary) / len(text), 3) if text else 0.0}


def redact(text: str) -> dict[str, Any]:
    """Puts placeholders in the place of e-mail addresses, bank account numbers and telephone numbers."""
    counts: dict[str, int] = {}
    for label, pattern in (("email", _EMAIL), ("iban", _IBAN), ("phone", _PHONE)):
        text, counts[label] = pattern.subn(f"[{label}]", text)
    return {"text": text, "redactions": counts}


def index(documents: list[str]) -> Generator[dict[str, Any], None, dict[str, Any]]:
    """An inverted index: for each word, the numbers of the documents that have it. Yields its progress."""
    postings: dict[str, list[int]] = {}
    for number, document in enumerate(documents):
        for word in sorted(set(_content_words(document))):
            postings.setdefault(word, []).append(number)
        yield {"documents": number + 1, "of": len(documents)}
    return {"index": postings, "words": len(postings)}


def _sentences(text: str) -> list[str]:
    return [sentence.strip() for sentence in _SENTENCE_END.split(text) if sentence.strip()]


def _content_words(text: str) -> list[str]:
    words = (word.lower() for word in _WORD.findall(text))
    return [word for word in words if word not in _STOP_WORDS]
