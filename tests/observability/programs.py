"""Programs that look at their trace, and one that prints without end."""

import logging
import random
import threading
import time
from pathlib import Path
from typing import Any

from opentelemetry import propagate, trace

from poolshift.worker.tracing import program as program_trace


def looks_at_its_trace() -> dict[str, Any]:
    """Returns the context that `opentelemetry-api` shows a program, and the headers for a request of its own."""
    context = trace.get_current_span().get_span_context()
    sent: dict[str, str] = {}
    propagate.inject(sent)
    return {
        "trace_id": trace.format_trace_id(context.trace_id),
        "span_id": trace.format_span_id(context.span_id),
        "sampled": context.trace_flags.sampled,
        "sent": sent,
    }


def records(count: int) -> int:
    """Hangs spans of its own under its span, one within the other."""
    tracer = trace.get_tracer(__name__)
    with tracer.start_as_current_span("chat", kind=trace.SpanKind.CLIENT, attributes={"gen_ai.request.model": "m"}):
        for number in range(count):
            with tracer.start_as_current_span(f"step {number}") as span:
                span.add_event("token", {"number": number, "sizes": [1, 2]})
    return count


def speaks_of_itself(fails: bool) -> str:
    """Says more of the span that it runs in, before and after there is one within it."""
    span = trace.get_current_span()
    with trace.get_tracer(__name__).start_as_current_span("first"):
        pass
    span.set_attribute("one", 1)
    span.set_attributes({"two": 2})
    span.add_event("happened", {"number": 3})
    span.record_exception(ValueError("recorded"))
    with trace.get_tracer(__name__).start_as_current_span("second"):
        pass
    if fails:
        raise ValueError("as asked")
    return trace.format_span_id(span.get_span_context().span_id)


def raises_within_its_span() -> str:
    """Enters the span that it runs in, as the SDK lets one, and leaves it with an exception."""
    span: Any = trace.get_current_span()
    assert span.name == "program"
    with span:
        raise ValueError("as asked")


_spans: list[trace.Span] = []


def keeps_its_span() -> bool:
    """Touches the span of the call before, if there was one; whether that still records."""
    before = list(_spans)
    _spans[:] = [trace.get_current_span()]
    for span in before:
        span.set_attribute("late", 1)
        span.end()
    return any(span.is_recording() for span in before)


def touches_its_span_at_once(threads: int) -> int:
    """As many threads set an attribute each, at the same time, and record a span."""
    span, tracer = trace.get_current_span(), trace.get_tracer(__name__)
    barrier = threading.Barrier(threads)

    def touch(number: int) -> None:
        barrier.wait()
        span.set_attribute(f"thread {number}", number)
        tracer.start_span(f"thread {number}", trace.set_span_in_context(span)).end()

    running = [threading.Thread(target=touch, args=(number,)) for number in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return threads


def breaks_its_recording() -> str:
    """Makes its worker send JSON that is not a span, as a program can that means harm."""
    trace.get_current_span().set_attribute("touched", True)
    vars(program_trace)["encode_span"] = lambda _: b'{"name":7}'
    return "broken"


def records_nonsense() -> str:
    """A span that no other process could read, and one that any could."""
    tracer = trace.get_tracer(__name__)
    tracer.start_span("\ud800").end()
    tracer.start_span("too late", start_time=2**70).end(2**70)
    tracer.start_span("fine", attributes={"too big": 2**40}).end()
    return "recorded"


def draws() -> float:
    """A number that a seed makes the same each time."""
    random.seed(7)
    return random.random()


def prints_until(path: str) -> int:
    """Prints as fast as it can until `path` is there."""
    count = 0
    while not Path(path).exists():
        print(f"line {count} " + "x" * 80)
        count += 1
    return count


def prints_lines(count: int) -> int:
    for number in range(count):
        print(f"line {number}")
    return count


def logs(text: str) -> str:
    logging.getLogger("program").warning("it says %s", text)
    return text


def logs_slowly(text: str, seconds: float) -> str:
    print(text)
    time.sleep(seconds)
    return text
