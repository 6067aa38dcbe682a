"""`python -m dashboards.build` writes each dashboard's JSON beside its code, for Grafana and the chart."""

from pathlib import Path

from dashboards import canary, pools, service
from dashboards.frame import to_json

HERE = Path(__file__).parent


def generate() -> dict[str, str]:
    """Returns the JSON of each dashboard by its name."""
    return {part.__name__.rpartition(".")[2]: to_json(part.build()) for part in (canary, pools, service)}


if __name__ == "__main__":
    for name, text in generate().items():
        (HERE / f"{name}.json").write_text(text)
