//! The shells: watches, loops, executors, lease, admin server
