//! The index: watch events in, snapshots out
