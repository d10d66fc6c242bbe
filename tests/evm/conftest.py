"""The contracts on a chain, and a chain that fails now and then."""

from tests.contracts.world import _world, world  # noqa: F401 - fixtures
from tests.evm.flaky import flaky  # noqa: F401 - fixture
