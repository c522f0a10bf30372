"""What concerns this process and no model: memory, garbage collector, threads, signals, telemetry."""
