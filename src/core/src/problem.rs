//! Packing problems as JSON text: what `plimsoll pack` and the benches read.
//!
//! The format is documented in `bench/FORMAT.md`. Reading has two steps, because a claim about speed
//! starts its clock at plain pods: [`Problem::read`] makes them, [`Problem::snapshot`] groups them into
//! classes as every planning pass must. This module only parses text; opening files is for its callers.

use std::{collections::BTreeMap, sync::Arc};

use rustc_hash::FxHashSet;
use thiserror::Error;

use crate::{
    catalog::Catalog,
    policy::Policy,
    snapshot::{DaemonSet, Labels, Node, NodeId, Place, Pod, PodClass, Pool, Snapshot},
};

mod classing;
mod cluster;
mod cursor;
mod pod;
mod quantity;
mod result;

pub use classing::classes;
pub use result::{Timing, result_json};

use cursor::At;

/// Bytes of the unit in which `mem` is given.
const MIB: i64 = 1 << 20;

/// One problem, before classing.
#[derive(Clone, Debug)]
pub struct Problem {
    pub catalog: Catalog,
    pub policy: Policy,
    /// Sorted by key.
    pub pods: Vec<PlainPod>,
    nodes: Vec<Node>,
    pools: Vec<Pool>,
    daemons: Vec<PlainDaemon>,
    namespaces: BTreeMap<Arc<str>, Labels>,
}

/// A pod with a specification of its own and all its labels, as a watch would hold it.
#[derive(Clone, Debug)]
pub struct PlainPod {
    /// `namespace/name`.
    pub key: Arc<str>,
    pub spec: PodClass,
    place: PlainPlace,
    daemon: bool,
    terminating: bool,
}

/// Like [`Place`], with the node's index.
#[derive(Clone, Copy, Debug)]
enum PlainPlace {
    Pending,
    Bound(usize),
    Leaving(usize),
}

#[derive(Clone, Debug)]
struct PlainDaemon {
    key: Arc<str>,
    spec: PodClass,
}

/// What is wrong with a problem file, where, and what would be right.
#[derive(Debug, Error)]
pub enum ProblemError {
    #[error("the problem is not JSON")]
    Syntax(#[source] serde_json::Error),
    #[error("{path}: {what}; {fix}")]
    Field { path: String, what: String, fix: String },
}

/// Texts seen so far, so that equal ones are held once, as a watch cache interns them.
#[derive(Debug, Default)]
struct Strings(FxHashSet<Arc<str>>);

impl Strings {
    fn keep(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.0.get(text) {
            return known.clone();
        }
        let new: Arc<str> = text.into();
        self.0.insert(new.clone());
        new
    }
}

impl Problem {
    /// Reads a problem. Fails on text that is not JSON, on unknown or missing fields and on values out of
    /// range, naming the path.
    pub fn read(json: &str) -> Result<Self, ProblemError> {
        let value = serde_json::from_str(json).map_err(ProblemError::Syntax)?;
        let root = At::root(&value);
        root.fields(&[
            "source",
            "types",
            "pods",
            "pools",
            "nodes",
            "daemonSets",
            "namespaces",
            "policy",
        ])?;
        let mut strings = Strings::default();

        let mut catalog = Catalog {
            revision: 1,
            ..Catalog::default()
        };
        if let Some(at) = root.get("source") {
            catalog.price_source = strings.keep(at.text()?);
        }
        for at in root.need("types")?.list()? {
            catalog.types.push(cluster::instance_type(&at, &mut strings)?);
        }
        catalog.types.sort_by(|a, b| a.name.cmp(&b.name));
        unique(&root, "types", catalog.types.iter().map(|t| &*t.name))?;

        let mut pools = Vec::new();
        let default_pool = serde_json::json!({ "name": "default" });
        let listed = match root.get("pools") {
            Some(at) => at.list()?.collect(),
            None => vec![At::root(&default_pool)],
        };
        for at in listed {
            let (pool, types) = cluster::pool(&at, &catalog, &mut strings)?;
            catalog.by_pool.insert(pool.name.clone(), types);
            pools.push(pool);
        }
        pools.sort_by(|a: &Pool, b| a.name.cmp(&b.name));
        unique(&root, "pools", pools.iter().map(|p| &*p.name))?;

        let (mut nodes, mut pods) = (Vec::new(), Vec::new());
        for (index, at) in root.each("nodes")?.iter().enumerate() {
            let (node, on_it) = cluster::node(at, index, &catalog, &mut strings)?;
            nodes.push(node);
            pods.extend(on_it);
        }
        unique(&root, "nodes", nodes.iter().map(|n| &*n.name))?;

        let mut known = pod::SHAPE.to_vec();
        known.push("count");
        for (index, at) in root.need("pods")?.list()?.enumerate() {
            at.fields(&known)?;
            let name = format!("pod-{index:07}");
            pods.extend(cluster::plain_pods(
                &at,
                &name,
                PlainPlace::Pending,
                &mut strings,
            )?);
        }
        pods.sort_by(|a, b| a.key.cmp(&b.key));
        unique(&root, "pods", pods.iter().map(|p| &*p.key))?;

        let mut daemons = Vec::new();
        for (index, at) in root.each("daemonSets")?.iter().enumerate() {
            daemons.push(cluster::daemon(at, index, &mut strings)?);
        }
        daemons.sort_by(|a, b| a.key.cmp(&b.key));
        unique(&root, "daemonSets", daemons.iter().map(|d| &*d.key))?;

        let mut namespaces = BTreeMap::new();
        for (name, at) in root.entries("namespaces")? {
            at.fields(&["labels"])?;
            let labels = pod::pairs(&at, "labels", &mut strings)?.into_iter().collect();
            namespaces.insert(strings.keep(name), labels);
        }
        for namespace in pods
            .iter()
            .map(|p| &p.spec.namespace)
            .chain(daemons.iter().map(|d| &d.spec.namespace))
        {
            namespaces.entry(namespace.clone()).or_default();
        }
        let policy = cluster::policy(
            root.get("policy").as_ref(),
            root.need("pods")?.list()?.count(),
            pods.len(),
        )?;
        Ok(Self {
            catalog,
            policy,
            pods,
            nodes,
            pools,
            daemons,
            namespaces,
        })
    }

    /// The snapshot a planner sees: pods grouped into classes, nodes sorted by name.
    pub fn snapshot(&self) -> Snapshot {
        let specs = self
            .pods
            .iter()
            .map(|p| &p.spec)
            .chain(self.daemons.iter().map(|d| &d.spec));
        let (classes, class_of) = classes(specs);
        let (pod_classes, daemon_classes) = class_of.split_at(self.pods.len());

        let mut by_name: Vec<usize> = (0..self.nodes.len()).collect();
        by_name.sort_by(|a, b| self.nodes[*a].name.cmp(&self.nodes[*b].name));
        let mut node_id = vec![NodeId(0); self.nodes.len()];
        for (position, index) in by_name.iter().enumerate() {
            node_id[*index] = NodeId(position as u32);
        }
        let pods = self.pods.iter().zip(pod_classes).map(|(pod, class)| Pod {
            key: pod.key.clone(),
            uid: pod.key.clone(),
            class: *class,
            place: match pod.place {
                PlainPlace::Pending => Place::Pending,
                PlainPlace::Bound(node) => Place::Bound(node_id[node]),
                PlainPlace::Leaving(node) => Place::Leaving(node_id[node]),
            },
            daemon: pod.daemon,
            terminating: pod.terminating,
        });
        let daemons = self.daemons.iter().zip(daemon_classes);
        Snapshot {
            revision: 1,
            pods: pods.collect(),
            classes,
            nodes: by_name.iter().map(|index| self.nodes[*index].clone()).collect(),
            pools: self.pools.clone(),
            daemon_sets: daemons
                .map(|(daemon, class)| DaemonSet {
                    key: daemon.key.clone(),
                    class: *class,
                })
                .collect(),
            namespaces: self.namespaces.clone(),
        }
    }
}

/// Fails when a name appears twice in a list that is sorted, or once more in one that is not.
fn unique<'a>(root: &At, list: &str, names: impl Iterator<Item = &'a str>) -> Result<(), ProblemError> {
    let mut seen = FxHashSet::default();
    for name in names {
        if !seen.insert(name) {
            let at = root.get(list).unwrap_or_else(|| root.clone());
            return Err(at.error(
                format!("the name {name:?} appears twice"),
                "give each entry a name of its own",
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
