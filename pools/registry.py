"""Which engine serves which version."""

from collections.abc import Mapping
from types import MappingProxyType

from pools.engine import Engine
from pools.session_pool import SessionPool
from pools.session_pool_v2 import SessionPoolV2

ENGINES: Mapping[str, type[Engine]] = MappingProxyType({"v1": SessionPool, "v2": SessionPoolV2})
