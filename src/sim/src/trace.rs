//! What happened: a hash of all of it, and the last lines.

use std::{collections::VecDeque, fmt, hash::Hasher};

use jiff::Timestamp;
use rustc_hash::FxHasher;

/// Lines kept for a person to read.
const TAIL: usize = 5000;

#[derive(Default)]
pub(crate) struct Trace {
    hash: FxHasher,
    tail: VecDeque<String>,
}

impl Trace {
    /// Adds a line.
    pub(crate) fn line(&mut self, now: Timestamp, what: fmt::Arguments<'_>) {
        let line = format!("{now} {what}");
        self.hash.write(line.as_bytes());
        if self.tail.len() == TAIL {
            self.tail.pop_front();
        }
        self.tail.push_back(line);
    }

    /// Equal for equal runs.
    pub(crate) fn hash(&self) -> u64 {
        self.hash.finish()
    }

    pub(crate) fn into_tail(self) -> Vec<String> {
        self.tail.into()
    }
}

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trace")
            .field("tail", &self.tail.len())
            .finish_non_exhaustive()
    }
}
