"""Retrieval and an answer, as a DSPy module with two predictors: which part of Python's standard library does a thing.

The index is real and small: the first words of the documentation of some modules of the Python that runs this.
"""

import ast
import importlib.util
import math
import re
from collections import Counter
from pathlib import Path

import dspy

_MODULES = """
    argparse base64 bisect bz2 calendar cmd code colorsys compileall configparser copy csv dataclasses difflib dis enum
    fileinput filecmp fnmatch fractions functools getopt getpass gettext glob graphlib gzip hashlib heapq hmac keyword
    linecache mimetypes numbers operator pathlib plistlib pprint profile queue quopri random reprlib sched secrets
    selectors shelve shlex shutil socketserver stringprep tabnanny tempfile textwrap timeit token tokenize trace types
    uuid warnings wave weakref webbrowser zipapp
""".split()
_WORD = re.compile(r"[a-z]{2,}")


def documents() -> list[str]:
    """Reads the first paragraph of each module's documentation, with the module's name."""
    found = []
    for name in _MODULES:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin is not None and spec.origin.endswith(".py"):
            text = ast.get_docstring(ast.parse(Path(spec.origin).read_bytes()))
            if text:
                found.append(f"{name}: {' '.join(text.partition(chr(10) * 2)[0].split())}")
    return found


class BM25:
    """Ranks documents by the words of a query.

    The formula is that of S. Robertson and H. Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond",
    Foundations and Trends in Information Retrieval 3 (2009), with its usual constants.
    """

    def __init__(self, texts: list[str], k1: float = 1.2, b: float = 0.75) -> None:
        self._texts = texts
        self._counts = [Counter(_words(text)) for text in texts]
        lengths = [sum(counts.values()) for counts in self._counts]
        mean = sum(lengths) / len(lengths)
        self._norms = [k1 * (1 - b + b * length / mean) for length in lengths]
        self._k1 = k1
        having = Counter(word for counts in self._counts for word in counts)
        self._weights = {
            word: math.log(1 + (len(texts) - count + 0.5) / (count + 0.5)) for word, count in having.items()
        }

    def search(self, query: str, limit: int = 2) -> list[str]:
        """Returns the documents that fit best, the best one first."""
        words = set(_words(query)) & self._weights.keys()
        scores = [
            sum(self._weights[word] * counts[word] * (self._k1 + 1) / (counts[word] + norm) for word in sorted(words))
            for counts, norm in zip(self._counts, self._norms, strict=True)
        ]
        best = sorted(range(len(scores)), key=lambda position: -scores[position])
        return [self._texts[position] for position in best[:limit]]


class Search(dspy.Signature):  # type: ignore[misc]  # DSPy is without types
    """Name the words to search for."""

    question: str = dspy.InputField()
    keywords: str = dspy.OutputField(desc="Two words")


class Respond(dspy.Signature):  # type: ignore[misc]
    """Name the module that the question asks for. The context has it before a colon."""

    context: list[str] = dspy.InputField()
    question: str = dspy.InputField()
    answer: str = dspy.OutputField(desc="One word from the context")


class StandardLibrary(dspy.Module):  # type: ignore[misc]
    """Finds documents by the question and the words that the LM would search for, and answers by them."""

    def __init__(self) -> None:
        super().__init__()
        self.index = BM25(documents())
        self.search = dspy.Predict(Search, max_tokens=24)
        self.respond = dspy.Predict(Respond, max_tokens=48)

    def forward(self, question: str) -> dspy.Prediction:
        """Answers a question such as "What compresses files?"."""
        keywords = self.search(question=question).keywords
        context = self.index.search(f"{question} {keywords}")
        return dspy.Prediction(context=context, answer=self.respond(context=context, question=question).answer)


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())
