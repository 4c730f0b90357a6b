//! Decisions as data: the pure, deterministic planner
