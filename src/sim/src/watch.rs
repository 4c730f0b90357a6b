//! The watches of the controller: one ordered stream per kind, always late, sometimes very late, sometimes broken.
//!
//! A broken stream loses what was under way and begins again with a list. The list is a consistent read at its
//! moment and arrives later; it is never older than what the stream has shown before.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::{
    agenda::{Agenda, Event},
    api::{Change, Kind, Server},
    faults::{self, Rates},
    rng::Rng,
};

#[derive(Debug)]
struct Stream {
    /// Events of an earlier connection are no longer delivered.
    id: u64,
    /// Changes are sent. False between a break and the list that repairs it.
    open: bool,
    /// When the last event sent will arrive; nothing overtakes it.
    last: Timestamp,
}

/// All streams.
#[derive(Debug, Default)]
pub(crate) struct Watches {
    connections: u64,
    streams: BTreeMap<Kind, Stream>,
}

impl Watches {
    /// Breaks the stream of a kind, or opens it for the first time; it lists again after a while.
    pub(crate) fn reconnect(&mut self, kind: Kind, agenda: &mut Agenda, rates: &Rates, rng: &mut Rng) {
        self.connections += 1;
        let stream = self.connections;
        self.streams.insert(
            kind,
            Stream {
                id: stream,
                open: false,
                last: agenda.now(),
            },
        );
        let pause = if rng.hits(rates.stale_watch) {
            rng.between(1_000, 30_000)
        } else {
            rng.between(5, 500)
        };
        agenda.after(pause, Event::Relist { kind, stream });
    }

    /// Nobody listens any more.
    pub(crate) fn close(&mut self) {
        self.streams.clear();
    }

    /// Reads the list and sends it off.
    pub(crate) fn relist(
        &mut self,
        kind: Kind,
        id: u64,
        server: &Server,
        agenda: &mut Agenda,
        rates: &Rates,
        rng: &mut Rng,
    ) {
        let Some(stream) = self.streams.get_mut(&kind).filter(|s| s.id == id) else {
            return;
        };
        let objects = server.list(kind).map(|(_, object)| object.clone()).collect();
        stream.open = true;
        stream.last = agenda.now() + faults::watch_delay(rates, rng);
        agenda.at(
            stream.last,
            Event::Listed {
                kind,
                stream: id,
                objects,
            },
        );
    }

    /// Sends a change off.
    pub(crate) fn send(&mut self, change: Change, agenda: &mut Agenda, rates: &Rates, rng: &mut Rng) {
        let Some(stream) = self.streams.get_mut(&change.kind).filter(|s| s.open) else {
            return;
        };
        stream.last = stream.last.max(agenda.now() + faults::watch_delay(rates, rng));
        agenda.at(
            stream.last,
            Event::Watch {
                stream: stream.id,
                change,
            },
        );
    }

    /// Whether an event belongs to the present connection.
    pub(crate) fn is_current(&self, kind: Kind, id: u64) -> bool {
        self.streams.get(&kind).is_some_and(|s| s.id == id)
    }
}
