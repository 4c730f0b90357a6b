//! A cluster read through its API server, page by page, into the same form as a file.

use std::io::{IsTerminal, Write};

use anyhow::{Context, bail};
use http::Request;
use kube::Client;
use plimsoll_report::{
    dump::Dump,
    kinds::{KINDS, Kind},
};
use serde::Deserialize;
use serde_json::value::RawValue;

/// Objects per page: bounds what is in memory before it is slimmed, and what one request asks of the API server.
const PAGE_SIZE: u32 = 500;

#[derive(Deserialize)]
struct Page {
    #[serde(default)]
    metadata: PageMetadata,
    /// Go writes null for a list without items.
    items: Option<Vec<Box<RawValue>>>,
}

#[derive(Default, Deserialize)]
struct PageMetadata {
    #[serde(rename = "continue", default)]
    next: String,
}

/// Lists every kind a report reads and hands out each object. A kind that is not installed or not allowed is left out
/// and named, unless nothing can be said without it.
pub(crate) async fn each_object(
    client: &Client,
    mut take: impl FnMut(&Kind, &RawValue),
) -> anyhow::Result<Vec<String>> {
    let mut missing = Vec::new();
    let progress = std::io::stderr().is_terminal();
    for kind in &KINDS {
        let mut read = 0;
        let mut next = String::new();
        loop {
            match page(client, kind, &next).await {
                Ok(page) => {
                    let items = page.items.unwrap_or_default();
                    read += items.len();
                    items.iter().for_each(|item| take(kind, item));
                    next = page.metadata.next;
                }
                Err(kube::Error::Api(status)) if status.code == 404 && !kind.needed => {
                    missing.push(format!("{} are not installed: {}", kind.resource(), kind.use_));
                    break;
                }
                Err(kube::Error::Api(status)) if status.code == 403 && !kind.needed => {
                    missing.push(format!(
                        "not allowed to list {}: {}; grant get and list in a ClusterRole",
                        kind.resource(),
                        kind.use_
                    ));
                    break;
                }
                Err(kube::Error::Api(status)) if status.code == 403 => bail!(
                    "not allowed to list {}, which hold {}; grant get and list in a ClusterRole",
                    kind.resource(),
                    kind.use_
                ),
                Err(error) => return Err(error).with_context(|| format!("cannot list {}", kind.resource())),
            }
            if progress {
                eprint!("\r\x1b[Kreading {} … {read}", kind.plural);
                let _ = std::io::stderr().flush();
            }
            if next.is_empty() {
                break;
            }
        }
    }
    if progress {
        eprint!("\r\x1b[K");
    }
    Ok(missing)
}

async fn page(client: &Client, kind: &Kind, next: &str) -> Result<Page, kube::Error> {
    let mut path = format!("{}?limit={PAGE_SIZE}", kind.path());
    if !next.is_empty() {
        // The token is base64url; only its padding needs to be escaped.
        path.push_str("&continue=");
        path.push_str(&next.replace('=', "%3D").replace('+', "%2B"));
    }
    let request = Request::get(path)
        .body(Vec::new())
        .map_err(kube::Error::HttpError)?;
    let text = client.request_text(request).await?;
    serde_json::from_str(&text).map_err(kube::Error::SerdeError)
}

/// The cluster as an index.
pub(crate) async fn dump(client: &Client) -> anyhow::Result<(Dump, Vec<String>)> {
    let mut dump = Dump::default();
    let missing = each_object(client, |kind, object| {
        dump.take_as(&kind.api_version(), kind.kind, object);
    })
    .await?;
    Ok((dump, missing))
}
