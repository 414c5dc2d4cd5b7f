"""With IPVS, too, Services get what they ask for beyond addresses and ports: claims of other backends."""

from __future__ import annotations

import pytest

from tests.kernel.test_proxy_features import (
    lab,
    test_a_balancer_is_told_by_http_whether_this_node_has_endpoints,
    test_a_balancers_address_in_proxy_mode_is_left_to_the_balancer,
    test_a_restart_moves_no_udp_flow,
    test_a_udp_client_that_keeps_sending_moves_to_the_new_endpoint,
    test_a_udp_client_that_was_there_first_reaches_a_service_that_comes,
    test_endpoints_of_this_node_are_preferred_then_those_of_its_zone,
    test_endpoints_of_this_zone_are_preferred_as_long_as_there_are_some,
)

__all__ = [
    "lab",
    "test_a_balancer_is_told_by_http_whether_this_node_has_endpoints",
    "test_a_balancers_address_in_proxy_mode_is_left_to_the_balancer",
    "test_a_restart_moves_no_udp_flow",
    "test_a_udp_client_that_keeps_sending_moves_to_the_new_endpoint",
    "test_a_udp_client_that_was_there_first_reaches_a_service_that_comes",
    "test_endpoints_of_this_node_are_preferred_then_those_of_its_zone",
    "test_endpoints_of_this_zone_are_preferred_as_long_as_there_are_some",
]


pytestmark = pytest.mark.timeout(400)


@pytest.fixture
def mode() -> str:
    return "ipvs"
