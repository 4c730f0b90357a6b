//! Problems and plans as short texts, so that a rule and its effect fit on a few lines.
//!
//! One thing a line. `type NAME cpu=4 mem=16 price=1 zones=a,b spot=0.5`, `pool NAME weight=1 limit=cpu:8 taint=k`,
//! `node NAME cpu=4 mem=16 zone=a has=web:2`, `daemon cpu=1`, `pod web x3 cpu=1 …`. Cores and GiB; keys `zone`, `host`, `arch`
//! and `ct` stand for their long names.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    catalog::{Catalog, InstanceType, MicroDollars, Offering, Reservation, TypeId},
    plan::Plan,
    policy::{MinValuesPolicy, Policy, PreferencePolicy},
    provision::provision,
    report::{PodReason, Report},
    requirement::{Operator, Requirement},
    resources::Resources,
    snapshot::{
        AffinityTerm, ClassId, DaemonSet, HostPort, Node, NodeId, NodeStage, Place, Pod, PodClass, Pool,
        Selector, Snapshot, SpreadConstraint, Taint, TaintEffect, Toleration, TolerationOperator,
    },
};

pub(super) struct World {
    pub(super) snapshot: Snapshot,
    pub(super) catalog: Catalog,
    pub(super) policy: Policy,
    names: BTreeMap<ClassId, String>,
}

fn key(short: &str) -> Arc<str> {
    match short {
        "zone" => "topology.kubernetes.io/zone",
        "host" => "kubernetes.io/hostname",
        "arch" => "kubernetes.io/arch",
        "ct" => "karpenter.sh/capacity-type",
        "type" => "node.kubernetes.io/instance-type",
        other => other,
    }
    .into()
}

fn amounts(words: &BTreeMap<&str, Vec<&str>>) -> Resources {
    let mut all = Resources::new();
    for (name, values) in words {
        let resource = match *name {
            "cpu" => "cpu",
            "mem" => "memory",
            "pods" => "pods",
            "gpu" => "nvidia.com/gpu",
            _ => continue,
        };
        let value: f64 = values[0].parse().unwrap();
        let unit = match *name {
            "cpu" => 1000.0,
            "mem" => f64::from(1 << 30),
            _ => 1.0,
        };
        all.insert(resource.into(), (value * unit) as i64);
    }
    all
}

fn selector(app: &str) -> Selector {
    Selector {
        requirements: vec![Requirement::new("app", Operator::In, [app.into()])],
        nothing: false,
    }
}

/// `app@key` or `namespace/app@key`
fn term(text: &str) -> AffinityTerm {
    let (app, topology) = text.split_once('@').unwrap();
    let (app, namespaces) = match app.split_once('/') {
        Some((namespace, app)) => (app, vec![namespace.into()]),
        None => (app, Vec::new()),
    };
    AffinityTerm {
        topology_key: key(topology),
        selector: selector(app),
        namespaces,
        namespace_selector: None,
    }
}

/// `key:v1,v2` is In, `key!v` NotIn, `key>n` Gt, `key<n` Lt, `!key` DoesNotExist, `key` alone Exists.
fn requirement(text: &str) -> Requirement {
    let of = |at: usize, operator| {
        let values = text[at + 1..].split(',').map(Arc::from);
        Requirement::new(key(&text[..at]), operator, values)
    };
    if let Some(name) = text.strip_prefix('!') {
        Requirement::new(key(name), Operator::DoesNotExist, [])
    } else if let Some(at) = text.find('<') {
        of(at, Operator::Lt)
    } else if let Some(at) = text.find(':') {
        of(at, Operator::In)
    } else if let Some(at) = text.find('!') {
        of(at, Operator::NotIn)
    } else if let Some(at) = text.find('>') {
        of(at, Operator::Gt)
    } else {
        Requirement::new(key(text), Operator::Exists, [])
    }
}

fn taint(text: &str) -> Taint {
    let (name, effect) = match text.strip_suffix('?') {
        Some(name) => (name, TaintEffect::PreferNoSchedule),
        None => (text, TaintEffect::NoSchedule),
    };
    Taint {
        key: name.into(),
        value: "".into(),
        effect,
    }
}

fn class(name: &str, words: &BTreeMap<&str, Vec<&str>>) -> PodClass {
    let all = |word: &str| words.get(word).cloned().unwrap_or_default();
    let mut requests = amounts(words);
    requests.entry("pods".into()).or_insert(1);
    let app = words.get("app").map_or(name, |v| v[0]);
    let spread = |text: &str, hard: bool| {
        let mut parts = text.split(':');
        SpreadConstraint {
            topology_key: key(parts.next().unwrap()),
            max_skew: parts.next().unwrap().parse().unwrap(),
            min_domains: parts.next().map(|n| n.parse().unwrap()),
            hard,
            selector: selector(app),
            honor_node_affinity: !words.contains_key("any-node"),
            honor_node_taints: words.contains_key("honor-taints"),
        }
    };
    PodClass {
        namespace: words.get("ns").map_or("default", |v| v[0]).into(),
        priority: words.get("priority").map_or(0, |v| v[0].parse().unwrap()),
        labels: vec![("app".into(), app.into())],
        requests: requests.into_iter().collect(),
        node_affinity: if words.contains_key("or") {
            all("or").into_iter().map(|t| vec![requirement(t)]).collect()
        } else if words.contains_key("need") {
            vec![all("need").into_iter().map(requirement).collect()]
        } else {
            Vec::new()
        },
        preferred_node_affinity: all("like")
            .into_iter()
            .map(|t| (1, vec![requirement(t)]))
            .collect(),
        tolerations: all("tolerates")
            .into_iter()
            .map(|k| Toleration {
                key: Some(k.into()),
                operator: TolerationOperator::Exists,
                value: "".into(),
                effect: None,
            })
            .collect(),
        spread: all("spread")
            .into_iter()
            .map(|t| spread(t, true))
            .chain(all("spread?").into_iter().map(|t| spread(t, false)))
            .collect(),
        affinity: all("with").into_iter().map(term).collect(),
        anti_affinity: all("apart").into_iter().map(term).collect(),
        preferred_affinity: all("with?").into_iter().map(|t| (1, term(t))).collect(),
        preferred_anti_affinity: all("apart?").into_iter().map(|t| (1, term(t))).collect(),
        host_ports: all("port")
            .into_iter()
            .map(|p| HostPort {
                ip: "0.0.0.0".into(),
                port: p.parse().unwrap(),
                protocol: "TCP".into(),
            })
            .collect(),
        volume_affinity: all("reach")
            .into_iter()
            .map(|t| vec![vec![requirement(t)]])
            .collect(),
        volumes: all("volume")
            .into_iter()
            .map(|v| ("ebs".into(), v.into()))
            .collect(),
        ..PodClass::default()
    }
}

impl World {
    pub(super) fn read(text: &str) -> Self {
        let mut world = Self {
            snapshot: Snapshot::default(),
            catalog: Catalog::default(),
            policy: Policy {
                preferences: PreferencePolicy::Respect,
                min_values: MinValuesPolicy::Strict,
                nomination: true,
                steps_max: 2000,
                types_per_launch_max: 60,
                interruption_cost: MicroDollars(0),
            },
            names: BTreeMap::new(),
        };
        let mut running: Vec<(String, u32, Place)> = Vec::new();
        let mut classes: BTreeMap<String, ClassId> = BTreeMap::new();
        for line in text.lines().map(str::trim).filter(|l| !l.is_empty()) {
            let mut words = line.split_whitespace();
            let kind = words.next().unwrap();
            let name = if kind == "daemon" || kind == "policy" {
                kind
            } else {
                words.next().unwrap()
            };
            let mut count = 1;
            let mut map: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
            for word in words {
                match word.split_once('=') {
                    Some((k, v)) => map.entry(k).or_default().push(v),
                    None => count = word.strip_prefix('x').unwrap().parse().unwrap(),
                }
            }
            match kind {
                "type" => world.instance_type(name, &map),
                "pool" => world.pool(name, &map),
                "node" => {
                    let id = NodeId(world.snapshot.nodes.len() as u32);
                    // Pods that run there, that must leave it, and that were promised a place there.
                    let places = [
                        ("has", Place::Bound(id)),
                        ("moving", Place::Leaving(id)),
                        ("promised", Place::Assigned(id)),
                    ];
                    for (word, place) in places {
                        for of_class in map.get(word).cloned().unwrap_or_default() {
                            let (class, n) = of_class.split_once(':').unwrap();
                            running.push((class.to_owned(), n.parse().unwrap(), place));
                        }
                    }
                    world.node(name, &map);
                }
                "daemon" => {
                    let id = world.class("daemon", class("daemon", &map));
                    world.snapshot.daemon_sets.push(DaemonSet {
                        key: "default/daemon".into(),
                        class: id,
                    });
                }
                "policy" => world.policy(&map),
                _ => {
                    let id = world.class(name, class(name, &map));
                    classes.insert(name.to_owned(), id);
                    for n in 0..count {
                        world.pod(&format!("default/{name}-{n}"), id, Place::Pending);
                    }
                }
            }
        }
        for (name, n, place) in running {
            for i in 0..n {
                let key = format!("default/{name}-on-{place:?}-{i}");
                world.pod(&key, classes[&name], place);
            }
        }
        world.snapshot.pods.sort_by(|a, b| a.key.cmp(&b.key));
        let all: Vec<TypeId> = (0..world.catalog.types.len() as u32).map(TypeId).collect();
        for pool in &world.snapshot.pools {
            world.catalog.by_pool.insert(pool.name.clone(), all.clone());
        }
        world
    }

    fn class(&mut self, name: &str, class: PodClass) -> ClassId {
        let id = ClassId(self.snapshot.classes.len() as u32);
        self.snapshot.classes.push(class);
        self.names.insert(id, name.to_owned());
        id
    }

    fn pod(&mut self, key: &str, class: ClassId, place: Place) {
        self.snapshot.pods.push(Pod {
            key: key.into(),
            uid: key.into(),
            class,
            place,
            daemon: false,
            terminating: false,
        });
    }

    fn policy(&mut self, map: &BTreeMap<&str, Vec<&str>>) {
        for (word, values) in map {
            match (*word, values[0]) {
                ("minValues", "BestEffort") => self.policy.min_values = MinValuesPolicy::BestEffort,
                ("preferences", "Ignore") => self.policy.preferences = PreferencePolicy::Ignore,
                ("nomination", "off") => self.policy.nomination = false,
                ("steps", n) => self.policy.steps_max = n.parse().unwrap(),
                ("interruption", dollars) => {
                    self.policy.interruption_cost = MicroDollars::from_dollars(dollars.parse().unwrap());
                }
                other => panic!("{other:?}"),
            }
        }
    }

    fn instance_type(&mut self, name: &str, map: &BTreeMap<&str, Vec<&str>>) {
        let price: f64 = map["price"][0].parse().unwrap();
        let zones: Vec<&str> = map.get("zones").map_or(vec!["a"], |z| z[0].split(',').collect());
        let mut offerings = Vec::new();
        let offering = |zone: &str, ct: &str, price: f64| Offering {
            zone: zone.into(),
            capacity_type: ct.into(),
            price: MicroDollars::from_dollars(price),
            available: map.get("sold-out").is_none_or(|z| !z.contains(&zone)),
            labels: Vec::new(),
            reservation: None,
            allocatable: None,
            interruption_permille: if ct == "spot" { 500 } else { 0 },
        };
        for zone in zones {
            offerings.push(offering(zone, "on-demand", price));
            if let Some(n) = map.get("reserved") {
                let mut reserved = offering(zone, "reserved", 0.0);
                let id: Arc<str> = format!("cr-{name}").into();
                reserved.labels = vec![("reservation".into(), id.clone())];
                reserved.reservation = Some(Reservation {
                    id,
                    remaining: n[0].parse().unwrap(),
                });
                offerings.push(reserved);
            }
            if let Some(spot) = map.get("spot") {
                offerings.push(offering(zone, "spot", spot[0].parse().unwrap()));
            }
        }
        if let Some(overlay) = map.get("overlay") {
            // A node overlay: in this zone the machine holds that many cores.
            let (zone, cores) = overlay[0].split_once(':').unwrap();
            let mut allocatable = amounts(map);
            allocatable.insert("cpu".into(), cores.parse::<i64>().unwrap() * 1000);
            allocatable.entry("pods".into()).or_insert(110);
            for offering in offerings.iter_mut().filter(|o| &*o.zone == zone) {
                offering.allocatable = Some(allocatable.clone());
            }
        }
        let capacity = {
            let mut all = amounts(map);
            all.entry("pods".into()).or_insert(110);
            all
        };
        let arch = map.get("arch").map_or("amd64", |a| a[0]);
        let mut requirements = vec![Requirement::new(key("arch"), Operator::In, [arch.into()])];
        for label in map.get("label").cloned().unwrap_or_default() {
            requirements.push(requirement(label));
        }
        self.catalog.types.push(InstanceType {
            name: name.into(),
            requirements: requirements.into(),
            allocatable: capacity.clone(),
            capacity,
            offerings,
        });
    }

    fn pool(&mut self, name: &str, map: &BTreeMap<&str, Vec<&str>>) {
        let all = |word: &str| map.get(word).cloned().unwrap_or_default();
        let mut requirements: Vec<Requirement> = all("need").into_iter().map(requirement).collect();
        for min in all("min") {
            let (k, n) = min.split_once(':').unwrap();
            let mut r = Requirement::new(key(k), Operator::Exists, []);
            r.min_values = Some(n.parse().unwrap());
            requirements.push(r);
        }
        let limits = all("limit").into_iter().map(|l| {
            let (k, n) = l.split_once(':').unwrap();
            let n: i64 = n.parse().unwrap();
            (Arc::from(k), if k == "cpu" { n * 1000 } else { n })
        });
        self.snapshot.pools.push(Pool {
            name: name.into(),
            weight: map.get("weight").map_or(0, |w| w[0].parse().unwrap()),
            requirements,
            labels: BTreeMap::new(),
            taints: all("taint").into_iter().map(taint).collect(),
            startup_taints: all("startup").into_iter().map(taint).collect(),
            limits: limits.collect(),
            consolidate_after: None,
            budgets: Vec::new(),
        });
    }

    fn node(&mut self, name: &str, map: &BTreeMap<&str, Vec<&str>>) {
        let mut capacity = amounts(map);
        capacity.entry("pods".into()).or_insert(110);
        let zone = map.get("zone").map_or("a", |z| z[0]);
        self.snapshot.nodes.push(Node {
            name: name.into(),
            claim: Some(name.into()),
            pool: map.get("pool").map(|p| p[0].into()),
            stage: NodeStage::Initialized,
            leaving: map.contains_key("leaving"),
            not_ready: false,
            labels: [(key("zone"), zone.into()), (key("host"), name.into())].into(),
            taints: map
                .get("taint")
                .cloned()
                .unwrap_or_default()
                .into_iter()
                .map(taint)
                .collect(),
            allocatable: capacity.clone(),
            capacity,
            price: None,
            volume_limits: map
                .get("volumes")
                .map(|n| ("ebs".into(), n[0].parse().unwrap()))
                .into_iter()
                .collect(),
            created: jiff::Timestamp::UNIX_EPOCH,
            quiet_since: None,
            disruption_blocker: None,
        });
    }

    pub(super) fn solve(&self) -> (Plan, Report) {
        provision(&self.snapshot, &self.catalog, &self.policy)
    }

    /// `node: web*2 | large a spot: web + db*3 | left db*1: Limit`
    pub(super) fn print(&self, plan: &Plan, report: &Report) -> String {
        let pods = |list: Vec<u32>| {
            let mut counts: BTreeMap<&str, u32> = BTreeMap::new();
            for pod in list {
                let class = self.snapshot.pods[pod as usize].class;
                *counts.entry(&self.names[&class]).or_default() += 1;
            }
            let one = |(name, n): (&&str, &u32)| {
                if *n == 1 {
                    (*name).to_owned()
                } else {
                    format!("{name}*{n}")
                }
            };
            counts.iter().map(one).collect::<Vec<_>>().join(" + ")
        };
        let mut lines = Vec::new();
        let mut by_node: BTreeMap<NodeId, Vec<u32>> = BTreeMap::new();
        for a in &plan.assignments {
            by_node.entry(a.node).or_default().push(a.pod.0);
        }
        for (node, list) in by_node {
            lines.push(format!(
                "{}: {}",
                self.snapshot.nodes[node.0 as usize].name,
                pods(list)
            ));
        }
        let mut launches: Vec<String> = plan
            .launches
            .iter()
            .map(|l| {
                let it = &l.offering;
                let place = match &*it.capacity_type {
                    "on-demand" => it.zone.to_string(),
                    other => format!("{} {other}", it.zone),
                };
                format!(
                    "{} {place}: {}",
                    it.instance_type,
                    pods(l.pods.iter().map(|p| p.0).collect())
                )
            })
            .collect();
        launches.sort();
        lines.extend(launches);
        let mut left: BTreeMap<String, u32> = BTreeMap::new();
        for unplaced in &report.unplaced {
            let class = self.snapshot.pods[unplaced.pod.0 as usize].class;
            let reasons: Vec<&str> = unplaced.reasons.iter().map(reason).collect();
            *left
                .entry(format!("left {}: {}", self.names[&class], reasons.join(", ")))
                .or_default() += 1;
        }
        lines.extend(
            left.into_iter()
                .map(|(text, n)| text.replacen(':', &format!("*{n}:"), 1)),
        );
        lines.join(" | ")
    }
}

fn reason(reason: &PodReason) -> &'static str {
    match reason {
        PodReason::NoPools => "NoPools",
        PodReason::Taint { .. } => "Taint",
        PodReason::Requirements { .. } => "Requirements",
        PodReason::Resources { .. } => "Resources",
        PodReason::Offering { .. } => "Offering",
        PodReason::Limit { .. } => "Limit",
        PodReason::Topology { .. } => "Topology",
        PodReason::MinValues { .. } => "MinValues",
        PodReason::HostPort { .. } => "HostPort",
        PodReason::Volume { .. } => "Volume",
    }
}

/// Solves the problem and compares the reasons of each pod that has no place, in the order of pods.
pub(super) fn explain(problem: &str, expected: &[&str]) {
    let world = World::read(problem);
    let (_, report) = world.solve();
    let reasons = report.unplaced.iter().flat_map(|u| &u.reasons);
    let mut texts: Vec<String> = reasons.map(ToString::to_string).collect();
    texts.dedup();
    assert_eq!(texts, expected, "{problem}");
}

/// Solves the problem; the judge must find nothing. Returns how many pods have a place, and how many need one.
pub(super) fn sound(problem: &str) -> (usize, usize) {
    let world = World::read(problem);
    let (plan, _) = world.solve();
    let verdict = crate::verify::verify(&world.snapshot, &world.catalog, &plan);
    assert!(
        verdict.violations.is_empty(),
        "{problem}\n{:?}",
        verdict.violations
    );
    (verdict.placed, verdict.wanted)
}

/// Solves the problem and compares the plan with the expected text.
pub(super) fn check(problem: &str, expected: &str) {
    let world = World::read(problem);
    let (plan, report) = world.solve();
    assert_eq!(world.print(&plan, &report), expected, "{problem}");
    let verdict = crate::verify::verify(&world.snapshot, &world.catalog, &plan);
    assert!(
        verdict.violations.is_empty(),
        "{problem}\n{:?}",
        verdict.violations
    );
    assert!(plan.lower_bound <= plan.launch_price, "{problem}");
}
