//! cel_cases
