//! The machines of the final state and what each must hold by itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    sync::Arc,
};

use crate::{
    catalog::Catalog,
    plan::{Launch, Offered, Plan},
    requirement::Requirement,
    resources::Resources,
    snapshot::{ClassId, HostPort, NodeId, Place, PodClass, PodId, Snapshot, Taint},
};

use super::{
    Rule, Subject, Violation, going,
    matching::{
        Shape, Value, certain, node_affinity_allows, ports_clash, possible, repelled, shape_of, volumes_allow,
    },
    offers::{Alternative, HOSTNAME_LABEL, Offers},
};

/// A machine of the final state and the pods on it.
pub(super) struct Machine<'a> {
    pub(super) subject: Subject,
    pub(super) taints: &'a [Taint],
    /// Labels of the machine it is expected to be.
    pub(super) shape: Shape,
    /// Everything it may turn into; one entry per listed type. Empty for a node that exists.
    alternatives: Vec<Rc<Vec<Alternative<'a>>>>,
    /// Pods that selectors count: those that stay and those that come.
    pub(super) pods: Vec<Placed>,
    /// False for a node that is leaving: its pods still count, but it is no domain of its own.
    pub(super) stays: bool,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Placed {
    pub(super) pod: PodId,
    pub(super) class: ClassId,
    /// The plan put it there.
    pub(super) new: bool,
}

impl Machine<'_> {
    /// The domains of a topology key in which the machine may come up; empty when it may lack the key.
    pub(super) fn domains(&self, key: &str) -> BTreeSet<Arc<str>> {
        let mut domains = BTreeSet::new();
        let expected = std::iter::once(&self.shape);
        let others = self
            .alternatives
            .iter()
            .flat_map(|of_type| of_type.iter().map(|a| &a.shape));
        // The hostname is the machine's own, whatever it becomes.
        let shapes = expected.chain(others.filter(|_| key != HOSTNAME_LABEL));
        for shape in shapes {
            if let Some(Value::OneOf(values)) = shape.get(key) {
                domains.extend(values.iter().cloned());
            }
        }
        domains
    }
}

/// Builds the machines and checks each by itself: offering, labels, taints, resources, ports, volumes.
pub(super) fn check<'a>(
    snapshot: &'a Snapshot,
    catalog: &'a Catalog,
    plan: &'a Plan,
    removed: &BTreeSet<NodeId>,
    violations: &mut Vec<Violation>,
) -> Vec<Machine<'a>> {
    let mut pods_on: Vec<Vec<Placed>> = vec![Vec::new(); snapshot.nodes.len()];
    let moved: BTreeSet<PodId> = super::placements(plan).map(|(_, pod)| pod).collect();
    for (i, pod) in snapshot.pods.iter().enumerate() {
        let id = PodId(i as u32);
        if let (Place::Bound(node) | Place::Assigned(node), false) = (pod.place, moved.contains(&id)) {
            pods_on[node.0 as usize].push(Placed {
                pod: id,
                class: pod.class,
                new: false,
            });
        }
    }
    for a in &plan.assignments {
        let class = snapshot.pods[a.pod.0 as usize].class;
        pods_on[a.node.0 as usize].push(Placed {
            pod: a.pod,
            class,
            new: true,
        });
    }
    let mut machines = Vec::new();
    for (i, pods) in pods_on.into_iter().enumerate() {
        let id = NodeId(i as u32);
        let gone = going(snapshot, removed, id);
        if pods.iter().any(|p| p.new) {
            if gone {
                let detail = "pods are assigned to a node that leaves".to_owned();
                let subject = Subject::Node(id);
                violations.push(Violation {
                    rule: Rule::Identity,
                    subject,
                    pod: None,
                    detail,
                });
            }
            check_node(snapshot, id, &pods, violations);
        }
        if !removed.contains(&id) {
            let node = &snapshot.nodes[i];
            let mut shape = shape_of(&node.labels);
            shape
                .entry(HOSTNAME_LABEL.into())
                .or_insert_with(|| Value::OneOf(vec![node.name.clone()]));
            machines.push(Machine {
                subject: Subject::Node(id),
                taints: &node.taints,
                shape,
                alternatives: Vec::new(),
                pods: counted(snapshot, pods),
                stays: !gone,
            });
        }
    }
    let mut offers = Offers::new(snapshot, catalog);
    let mut labels_hold = BTreeMap::new();
    for (i, launch) in plan.launches.iter().enumerate() {
        machines.push(check_launch(
            snapshot,
            catalog,
            &mut offers,
            &mut labels_hold,
            (i, launch),
            violations,
        ));
    }
    machines
}

/// A terminating pod holds its resources but selectors no longer count it.
fn counted(snapshot: &Snapshot, mut pods: Vec<Placed>) -> Vec<Placed> {
    pods.retain(|p| !snapshot.pods[p.pod.0 as usize].terminating);
    pods
}

fn class_of(snapshot: &Snapshot, id: ClassId) -> &PodClass {
    &snapshot.classes[id.0 as usize]
}

fn add(total: &mut Resources, class: &PodClass) {
    for (name, amount) in &class.requests {
        *total.entry(name.clone()).or_default() += amount;
    }
}

/// The first resource of which `wanted` exceeds what there is.
fn lacking<'r>(wanted: &'r Resources, there_is: &Resources) -> Option<&'r Arc<str>> {
    let fits = |(name, amount): &(&Arc<str>, &i64)| **amount <= there_is.get(*name).copied().unwrap_or(0);
    wanted
        .iter()
        .filter(|(_, amount)| **amount > 0)
        .find(|entry| !fits(entry))
        .map(|(name, _)| name)
}

/// The first pair of ports that clash; pods are compared with each other and with the daemons.
fn clash<'c>(classes: &[&'c PodClass]) -> Option<&'c HostPort> {
    let ports: Vec<(usize, &HostPort)> = classes
        .iter()
        .enumerate()
        .flat_map(|(i, c)| c.host_ports.iter().map(move |p| (i, p)))
        .collect();
    ports
        .iter()
        .enumerate()
        .find(|(i, (owner, port))| {
            ports[..*i]
                .iter()
                .any(|(other, earlier)| owner != other && ports_clash(port, earlier))
        })
        .map(|(_, (_, port))| *port)
}

/// An existing node that gets pods: their own constraints, and room beside what runs there.
fn check_node(snapshot: &Snapshot, id: NodeId, pods: &[Placed], violations: &mut Vec<Violation>) {
    let node = &snapshot.nodes[id.0 as usize];
    let mut wrong = |rule, pod, detail: String| {
        violations.push(Violation {
            rule,
            subject: Subject::Node(id),
            pod,
            detail,
        });
    };
    let mut shape = shape_of(&node.labels);
    shape
        .entry(HOSTNAME_LABEL.into())
        .or_insert_with(|| Value::OneOf(vec![node.name.clone()]));
    for placed in pods.iter().filter(|p| p.new) {
        let class = class_of(snapshot, placed.class);
        if let Some(taint) = repelled(class, &node.taints) {
            wrong(
                Rule::Taint,
                Some(placed.pod),
                format!("taint {} is not tolerated", taint.key),
            );
        }
        if !node_affinity_allows(class, &shape, certain) || !volumes_allow(class, &shape, certain) {
            wrong(
                Rule::Requirements,
                Some(placed.pod),
                format!("the labels of {} do not match", node.name),
            );
        }
    }

    // Daemons that should run there and do not yet keep their room, per resource.
    let (mut used, mut daemons_run, mut daemons_expected) =
        (Resources::new(), Resources::new(), Resources::new());
    for placed in pods {
        let class = class_of(snapshot, placed.class);
        add(&mut used, class);
        if snapshot.pods[placed.pod.0 as usize].daemon {
            add(&mut daemons_run, class);
        }
    }
    for set in &snapshot.daemon_sets {
        let class = class_of(snapshot, set.class);
        if repelled(class, &node.taints).is_none() && node_affinity_allows(class, &shape, certain) {
            add(&mut daemons_expected, class);
        }
    }
    for (name, expected) in daemons_expected {
        let missing = expected - daemons_run.get(&name).copied().unwrap_or(0);
        *used.entry(name).or_default() += missing.max(0);
    }
    if let Some(name) = lacking(&used, &node.allocatable) {
        wrong(
            Rule::Resources,
            None,
            format!("{name} of {} is overcommitted", node.name),
        );
    }

    let classes: Vec<&PodClass> = pods.iter().map(|p| class_of(snapshot, p.class)).collect();
    if let Some(port) = clash(&classes) {
        wrong(
            Rule::HostPort,
            None,
            format!("port {} is used twice on {}", port.port, node.name),
        );
    }
    let mut attached: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (driver, volume) in classes.iter().flat_map(|class| &class.volumes) {
        attached.entry(driver).or_default().insert(volume);
    }
    for (driver, volumes) in attached {
        let limit = node.volume_limits.get(driver);
        if limit.is_some_and(|limit| volumes.len() > *limit as usize) {
            wrong(
                Rule::VolumeLimit,
                None,
                format!("{} volumes of {driver} on {}", volumes.len(), node.name),
            );
        }
    }
}

/// Remembers whether a class may run on every machine of a type, by pool, requirements, type and class.
type LabelsHold<'a> = BTreeMap<(&'a str, &'a [Requirement], u32, ClassId), bool>;

fn check_launch<'a>(
    snapshot: &'a Snapshot,
    catalog: &'a Catalog,
    offers: &mut Offers<'a>,
    labels_hold: &mut LabelsHold<'a>,
    (number, launch): (usize, &'a Launch),
    violations: &mut Vec<Violation>,
) -> Machine<'a> {
    let subject = Subject::Launch(number);
    let mut wrong = |rule, pod, detail: String| {
        violations.push(Violation {
            rule,
            subject,
            pod,
            detail,
        });
    };
    let pool = snapshot
        .pools
        .iter()
        .find(|pool| pool.name == launch.pool)
        .expect("identities() found every pool");
    let sold = catalog
        .by_pool
        .get(&launch.pool)
        .map(Vec::as_slice)
        .unwrap_or_default();
    let pods: Vec<Placed> = launch
        .pods
        .iter()
        .map(|pod| Placed {
            pod: *pod,
            class: snapshot.pods[pod.0 as usize].class,
            new: true,
        })
        .collect();
    let classes: BTreeMap<ClassId, PodId> = pods.iter().rev().map(|p| (p.class, p.pod)).collect();
    let mut requests = Resources::new();
    for placed in &pods {
        add(&mut requests, class_of(snapshot, placed.class));
    }
    if let Some(name) = lacking(&requests, &launch.requests) {
        wrong(
            Rule::Resources,
            None,
            format!("the claim requests less {name} than its pods"),
        );
    }
    for (class, pod) in &classes {
        if let Some(taint) = repelled(class_of(snapshot, *class), &pool.taints) {
            wrong(
                Rule::Taint,
                Some(*pod),
                format!("taint {} of pool {} is not tolerated", taint.key, pool.name),
            );
        }
    }

    let mut alternatives = Vec::new();
    let mut cheapest_so_far = 0;
    for (i, id) in launch.types.iter().enumerate() {
        let name = &catalog.types[id.0 as usize].name;
        if !sold.contains(id) || launch.types[..i].contains(id) {
            wrong(
                Rule::Types,
                None,
                format!("{name} is not a type of {} or is listed twice", pool.name),
            );
        }
        let of_type = offers.of(pool, &launch.requirements, *id);
        let Some(cheapest) = of_type.iter().map(|a| a.offering.price.0).min() else {
            wrong(
                Rule::Offering,
                None,
                format!("no offering of {name} satisfies the requirements"),
            );
            continue;
        };
        if cheapest < cheapest_so_far {
            wrong(Rule::Types, None, format!("{name} is listed after a dearer type"));
        }
        cheapest_so_far = cheapest;
        for (class, pod) in &classes {
            let key = (&*launch.pool, launch.requirements.as_slice(), id.0, *class);
            let holds = *labels_hold.entry(key).or_insert_with(|| {
                let class = class_of(snapshot, *class);
                of_type.iter().all(|a| {
                    node_affinity_allows(class, &a.shape, certain) && volumes_allow(class, &a.shape, certain)
                })
            });
            if !holds {
                wrong(
                    Rule::Requirements,
                    Some(*pod),
                    format!("the labels of {name} do not match"),
                );
            }
        }
        let fits = of_type.iter().any(|a| misfit(snapshot, &requests, a).is_none());
        if let (false, Some(first)) = (fits, of_type.first()) {
            let lacks = misfit(snapshot, &requests, first).unwrap_or_default();
            wrong(Rule::Resources, None, format!("{name} does not hold it: {lacks}"));
        }
        if let Some(port) = of_type.iter().find_map(|a| launch_clash(snapshot, &pods, a)) {
            wrong(
                Rule::HostPort,
                None,
                format!("port {port} is used twice on {name}"),
            );
        }
        alternatives.push(of_type);
    }

    let expected = alternatives.iter().flat_map(|of_type| of_type.iter()).find(|a| {
        catalog.types[a.type_id.0 as usize].name == launch.offering.instance_type
            && a.offering.zone == launch.offering.zone
            && a.offering.capacity_type == launch.offering.capacity_type
            && a.offering.price == launch.offering.price
    });
    let mut shape = Shape::new();
    if let Some(expected) = expected {
        if let Some(name) = misfit(snapshot, &requests, expected) {
            wrong(
                Rule::Resources,
                None,
                format!("the expected offering does not hold it: {name}"),
            );
        }
        shape.clone_from(&expected.shape);
    } else {
        let Offered {
            instance_type,
            zone,
            capacity_type,
            price,
        } = &launch.offering;
        let offer = format!(
            "{instance_type} in {zone} as {capacity_type} at {}",
            price.dollars()
        );
        wrong(
            Rule::Offering,
            None,
            format!("the expected {offer} is not one of its offerings"),
        );
    }
    shape.insert(
        HOSTNAME_LABEL.into(),
        Value::OneOf(vec![format!("launch/{number}").into()]),
    );
    Machine {
        subject,
        taints: &pool.taints,
        shape,
        alternatives,
        pods,
        stays: true,
    }
}

/// The first resource that pods and daemons together lack on the machine.
fn misfit(snapshot: &Snapshot, requests: &Resources, machine: &Alternative) -> Option<String> {
    if machine.daemons.is_empty() {
        return lacking(requests, machine.allocatable).map(ToString::to_string);
    }
    let mut total = requests.clone();
    for daemon in &machine.daemons {
        add(
            &mut total,
            class_of(snapshot, snapshot.daemon_sets[*daemon].class),
        );
    }
    lacking(&total, machine.allocatable).map(ToString::to_string)
}

fn launch_clash(snapshot: &Snapshot, pods: &[Placed], machine: &Alternative) -> Option<u16> {
    let on_it = pods.iter().map(|p| p.class);
    let daemons = machine
        .daemons
        .iter()
        .map(|daemon| snapshot.daemon_sets[*daemon].class);
    let classes: Vec<&PodClass> = on_it
        .chain(daemons)
        .map(|class| class_of(snapshot, class))
        .filter(|class| !class.host_ports.is_empty())
        .collect();
    clash(&classes).map(|port| port.port)
}

/// Zones and other domains in which some pool could launch a machine for the class, judged by labels,
/// taints and size alone.
pub(super) fn launchable_domains<'a>(
    snapshot: &'a Snapshot,
    catalog: &'a Catalog,
    offers: &mut Offers<'a>,
    class: &PodClass,
    key: &str,
) -> BTreeSet<Arc<str>> {
    let mut domains = BTreeSet::new();
    let requests: Resources = class.requests.iter().cloned().collect();
    for pool in &snapshot.pools {
        if repelled(class, &pool.taints).is_some() {
            continue;
        }
        for id in catalog.by_pool.get(&pool.name).into_iter().flatten() {
            for machine in offers.of(pool, &[], *id).iter() {
                let Some(Value::OneOf(values)) = machine.shape.get(key) else {
                    continue;
                };
                if values.iter().all(|value| domains.contains(value))
                    || misfit(snapshot, &requests, machine).is_some()
                    || !node_affinity_allows(class, &machine.shape, possible)
                    || !volumes_allow(class, &machine.shape, possible)
                {
                    continue;
                }
                // Of a label with several values, only those that the class accepts.
                for value in values {
                    let mut narrowed = machine.shape.clone();
                    narrowed.insert(key.into(), Value::OneOf(vec![value.clone()]));
                    if node_affinity_allows(class, &narrowed, possible) {
                        domains.insert(value.clone());
                    }
                }
            }
        }
    }
    domains
}
