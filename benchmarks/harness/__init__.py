"""What the benchmarks share: bases and adapters of real shapes, servers, workloads, reports."""
