//! Clusters from files: what `kubectl get … -A -o json|yaml` prints, or a snapshot of ours.
//!
//! Both are lists of Kubernetes objects, read one object at a time into the same index the controller fills from its
//! watches. Kinds that no plan looks at are skipped.

use std::{
    fmt,
    io::{BufRead, BufReader, Read},
};

use crate::kinds::{KINDS, kubectl_get};
use jiff::Timestamp;
use k8s_openapi::api::{
    core::v1::{Namespace, Node},
    policy::v1::PodDisruptionBudget,
    storage::v1::{CSINode, StorageClass, VolumeAttachment},
};
use plimsoll_api::{nodeclaim::NodeClaim, nodepool::NodePool};
use plimsoll_state::{DaemonSet, Index, Observe, PersistentVolume, PersistentVolumeClaim, Pod};
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, DeserializeSeed, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;
use thiserror::Error;

/// Field of our own snapshots that says when they were taken.
pub(crate) const TAKEN: &str = "taken";
/// Field of our own snapshots: the version of their form.
pub(crate) const VERSION: &str = "version";
/// Grows when a field changes its meaning; newer fields alone are ignored by older programs.
pub(crate) const SNAPSHOT_VERSION: u32 = 1;
const BUFFER: usize = 1 << 16;
/// How a file of gzip begins.
const GZIP: [u8; 2] = [0x1f, 0x8b];

#[derive(Debug, Error)]
pub enum DumpError {
    #[error("cannot be read")]
    Io(#[from] std::io::Error),
    #[error("is compressed; unpack it first, with gunzip")]
    Gzip,
    #[error(
        "is not JSON, though it begins like it (before YAML that begins with a brace, write a line of `---`)"
    )]
    Json(#[from] serde_json::Error),
    #[error("is not YAML")]
    Yaml(#[source] Box<dyn std::error::Error + Send + std::marker::Sync>),
    #[error(
        "holds {0} where a Kubernetes object should be; objects are documents of their own, or `items` of a List"
    )]
    NotObject(&'static str),
    #[error("holds a document without `kind`; a Kubernetes object says its apiVersion and kind")]
    Kind,
    #[error(
        "holds no Kubernetes object that reports are made from; write it with `{}`",
        kubectl_get()
    )]
    Empty,
    #[error("holds nothing that can be read: {0}")]
    Unreadable(String),
    #[error(
        "is a snapshot of version {0}, and this program reads up to {SNAPSHOT_VERSION}; use a newer plimsoll"
    )]
    Version(u32),
}

/// A cluster read from a file.
#[derive(Debug, Default)]
pub struct Dump {
    pub index: Index,
    /// When a snapshot of ours was taken; kubectl does not say.
    pub taken: Option<Timestamp>,
    /// Objects taken in.
    pub objects: u32,
    /// Of each of [`KINDS`].
    pub(crate) of_kinds: [u32; KINDS.len()],
    /// Objects of kinds that no plan looks at.
    pub skipped: u32,
    /// Objects that could not be read, and why.
    pub unreadable: Vec<String>,
}

/// Reads JSON or YAML: a list, an object, or several of them one after another.
pub fn read(source: impl Read) -> Result<Dump, DumpError> {
    let mut dump = Dump::default();
    let taken = each_object(source, &mut |object| dump.take(object))?;
    if dump.objects == 0 {
        let why = dump.unreadable.into_iter().next();
        return Err(why.map_or(DumpError::Empty, DumpError::Unreadable));
    }
    dump.taken = taken;
    Ok(dump)
}

/// Hands out the objects of a file one by one. Returns when it was taken, if it says so.
pub fn each_object(
    source: impl Read,
    take: &mut dyn FnMut(&RawValue),
) -> Result<Option<Timestamp>, DumpError> {
    let mut source = BufReader::with_capacity(BUFFER, source);
    // The first character that is not a blank tells JSON from YAML.
    let first = loop {
        let buffered = source.fill_buf()?;
        let Some(first) = buffered.first().copied() else {
            return Err(DumpError::Empty);
        };
        if buffered.starts_with(&GZIP) {
            return Err(DumpError::Gzip);
        }
        if !first.is_ascii_whitespace() {
            break first;
        }
        source.consume(1);
    };
    let mut head = Head::default();
    if first == b'{' {
        let mut json = serde_json::Deserializer::from_reader(source);
        loop {
            Document(take, &mut head).deserialize(&mut json)?;
            if json.end().is_ok() {
                break;
            }
        }
    } else {
        let mut text = String::new();
        source.read_to_string(&mut text)?;
        let documents: Vec<serde_json::Value> =
            serde_saphyr::from_multiple(&text).map_err(|e| DumpError::Yaml(Box::new(e)))?;
        for document in documents.into_iter().filter(|d| !d.is_null()) {
            if let Some(what) = not_object(&document) {
                return Err(DumpError::NotObject(what));
            }
            let text = document.to_string();
            Document(take, &mut head).deserialize(&mut serde_json::Deserializer::from_str(&text))?;
        }
    }
    if head.is_without_kind {
        return Err(DumpError::Kind);
    }
    match head.version {
        Some(version) if version > SNAPSHOT_VERSION => Err(DumpError::Version(version)),
        _ => Ok(head.taken),
    }
}

fn not_object(document: &serde_json::Value) -> Option<&'static str> {
    match document {
        serde_json::Value::Object(_) => None,
        serde_json::Value::Array(_) => Some("a bare list"),
        serde_json::Value::String(_) => Some("plain text"),
        _ => Some("a bare value"),
    }
}

/// What documents say about themselves.
#[derive(Default)]
struct Head {
    /// One of them is neither a list nor an object of a kind.
    is_without_kind: bool,
    taken: Option<Timestamp>,
    /// Of a snapshot of ours.
    version: Option<u32>,
}

impl Dump {
    /// Takes in one object that says its kind, as JSON.
    pub fn take(&mut self, object: &RawValue) {
        #[derive(Deserialize)]
        struct Kind<'a> {
            #[serde(rename = "apiVersion", default)]
            api_version: &'a str,
            #[serde(default)]
            kind: &'a str,
        }
        let Ok(Kind { api_version, kind }) = serde_json::from_str(object.get()) else {
            self.unreadable.push("an item that is not an object".into());
            return;
        };
        if kind.is_empty() {
            self.unreadable.push("an item without kind".into());
            return;
        }
        self.take_as(api_version, kind, object);
    }

    /// What a file without objects of a kind leaves open: it does not say whether the cluster has none.
    pub fn absent(&self) -> Vec<String> {
        let kinds = KINDS
            .iter()
            .zip(self.of_kinds)
            .filter(|(_, objects)| *objects == 0);
        kinds
            .map(|(kind, _)| {
                format!(
                    "no {} in the file; where the cluster has some: {}",
                    kind.resource(),
                    kind.use_
                )
            })
            .collect()
    }

    /// Takes in one object of a known kind: items of the API server's lists do not repeat it.
    pub fn take_as(&mut self, api_version: &str, kind: &str, object: &RawValue) {
        let known = KINDS
            .iter()
            .position(|k| k.kind == kind && k.api_version() == api_version);
        if let Some(at) = known {
            self.of_kinds[at] += 1;
        }
        match (api_version, kind) {
            ("v1", "Pod") => self.apply::<Pod>(object),
            ("v1", "Node") => self.apply::<Node>(object),
            ("v1", "Namespace") => self.apply::<Namespace>(object),
            ("v1", "PersistentVolumeClaim") => self.apply::<PersistentVolumeClaim>(object),
            ("v1", "PersistentVolume") => self.apply::<PersistentVolume>(object),
            ("apps/v1", "DaemonSet") => self.apply::<DaemonSet>(object),
            ("policy/v1", "PodDisruptionBudget") => self.apply::<PodDisruptionBudget>(object),
            ("storage.k8s.io/v1", "StorageClass") => self.apply::<StorageClass>(object),
            ("storage.k8s.io/v1", "CSINode") => self.apply::<CSINode>(object),
            ("storage.k8s.io/v1", "VolumeAttachment") => self.apply::<VolumeAttachment>(object),
            ("karpenter.sh/v1", "NodePool") => self.apply::<NodePool>(object),
            ("karpenter.sh/v1", "NodeClaim") => self.apply::<NodeClaim>(object),
            _ => self.skipped += 1,
        }
    }

    fn apply<K: DeserializeOwned>(&mut self, object: &RawValue)
    where
        Index: Observe<K>,
    {
        match serde_json::from_str(object.get()) {
            Ok(read) => {
                // Times of events do not matter to somebody who looks once.
                Observe::<K>::apply(&mut self.index, read, Timestamp::UNIX_EPOCH);
                self.objects += 1;
            }
            Err(error) => {
                let kind = std::any::type_name::<K>().rsplit("::").next().unwrap_or_default();
                self.unreadable.push(format!("a {kind}: {error}"));
            }
        }
    }
}

/// A document: a list whose items are taken one by one, or an object.
struct Document<'a>(&'a mut dyn FnMut(&RawValue), &'a mut Head);

impl<'de> DeserializeSeed<'de> for Document<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Document<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a Kubernetes object or a list of them")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Self(take, head) = self;
        let mut fields: Vec<(String, Box<RawValue>)> = Vec::new();
        let mut is_list = false;
        while let Some(key) = map.next_key::<String>()? {
            if key == "items" {
                is_list = true;
                map.next_value_seed(Items(&mut *take))?;
            } else {
                fields.push((key, map.next_value()?));
            }
        }
        if !is_list && !fields.iter().any(|(key, _)| key == "kind") {
            head.is_without_kind = true;
            return Ok(());
        }
        if !is_list {
            let body: Vec<String> = fields
                .iter()
                .map(|(key, value)| format!("{key:?}:{value}"))
                .collect();
            let whole = RawValue::from_string(format!("{{{}}}", body.join(",")));
            take(&whole.map_err(serde::de::Error::custom)?);
            return Ok(());
        }
        let of = |name: &str| {
            fields
                .iter()
                .find(|(key, _)| key == name)
                .map(|(_, value)| value.get())
        };
        if of("kind") == Some("\"Snapshot\"") {
            head.taken = of(TAKEN).and_then(|text| serde_json::from_str(text).ok());
            head.version = of(VERSION).and_then(|text| serde_json::from_str(text).ok());
        }
        Ok(())
    }
}

struct Items<'a>(&'a mut dyn FnMut(&RawValue));

impl<'de> DeserializeSeed<'de> for Items<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Items<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of Kubernetes objects")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        while let Some(item) = items.next_element::<Box<RawValue>>()? {
            (self.0)(&item);
        }
        Ok(())
    }
}
