"""Services, Endpoints and EndpointSlices: defaults, rules, allocation, table columns."""
