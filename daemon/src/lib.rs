//! Process plumbing that every service shares: supervisor, signals, telemetry, backoff, clock.
