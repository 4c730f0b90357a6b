//! Per-object state machines: an object and what is known about it in, effects out
