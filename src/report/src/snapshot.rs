//! Snapshots to send away: a list of Kubernetes objects that holds only what the allow-list of [`crate::redact`] names.

use std::{io::Read, io::Write};

use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, value::RawValue};

use crate::{
    dump::{self, DumpError, SNAPSHOT_VERSION},
    redact::Redactor,
};

/// The form of the file. `taken` and `version` are named in [`crate::dump`] too.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Snapshot<'a> {
    api_version: &'static str,
    kind: &'static str,
    version: u32,
    taken: Timestamp,
    items: &'a [Box<RawValue>],
}

/// Takes in one object.
pub fn take(redactor: &mut Redactor, api_version: &str, kind: &str, object: &RawValue) {
    // What cannot be read as JSON is not kept.
    if let Ok(object) = serde_json::from_str::<Value>(object.get()) {
        redactor.take(kind, api_version, &object);
    }
}

/// Reduces a file to what may be sent away.
pub fn from_file(source: impl Read) -> Result<(Redactor, Option<Timestamp>), DumpError> {
    let mut redactor = Redactor::default();
    let taken = dump::each_object(source, &mut |object| {
        if let Ok(object) = serde_json::from_str::<Value>(object.get()) {
            let of = |field: &str| object[field].as_str().unwrap_or_default();
            redactor.take(of("kind"), of("apiVersion"), &object);
        }
    })?;
    Ok((redactor, taken))
}

/// Writes the snapshot.
pub fn write(redactor: Redactor, taken: Timestamp, out: impl Write) -> serde_json::Result<()> {
    let items = redactor.finish();
    serde_json::to_writer(
        out,
        &Snapshot {
            api_version: "plimsoll.dev/v1alpha1",
            kind: "Snapshot",
            version: SNAPSHOT_VERSION,
            taken,
            items: &items,
        },
    )
}
