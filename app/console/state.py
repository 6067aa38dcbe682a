"""The console of a running service: access, live pages and templates, built once by the lifespan."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

from app.access.auth import Authenticator
from app.assets import Assets
from app.console.access import Access
from app.console.live import LiveHub
from app.console.rendering import Renderer
from common.background import Background
from config.settings import Settings


@dataclass(frozen=True, slots=True)
class Console:
    """The parts that the pages need beside the services."""

    access: Access
    hub: LiveHub
    renderer: Renderer

    @classmethod
    def of(
        cls,
        settings: Settings,
        authenticator: Authenticator,
        assets: Assets,
        secrets: Sequence[bytes],
        staleness: Callable[[], float],
        background: Background,
    ) -> Self:
        """Builds the console. `secrets` are shared by all replicas and encrypt the cookies."""
        renderer = Renderer(assets)
        return cls(Access(settings, authenticator, secrets), LiveHub(background, staleness, renderer.region), renderer)
