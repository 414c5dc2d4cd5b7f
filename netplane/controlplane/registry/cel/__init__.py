"""The Common Expression Language as Kubernetes speaks it: `engine` compiles and evaluates, `functions` are its own."""
