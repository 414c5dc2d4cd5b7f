"""What holds for every test: hypothesis measures meaning, never time."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# Two cores may be shared with a whole cluster: a slow example is not a wrong one.
settings.register_profile("netplane", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.load_profile("netplane")
