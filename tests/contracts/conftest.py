from tests.contracts.world import _world, world  # noqa: F401 - fixtures
