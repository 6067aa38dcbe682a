"""`python -m dashboards.build` writes each dashboard's JSON beside its code."""

from pathlib import Path

from dashboards import canary, pools, service
from dashboards.frame import to_json

HERE = Path(__file__).parent


def generate() -> dict[Path, str]:
    """Returns the content of each file."""
    return {
        HERE / f"{part.__name__.rpartition('.')[2]}.json": to_json(part.build()) for part in (canary, pools, service)
    }


if __name__ == "__main__":
    for path, text in generate().items():
        path.write_text(text)
