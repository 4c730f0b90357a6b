//! Checks the certificate of a lower bound; see [`crate::plan::Bound`] for what it states.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use thiserror::Error;

use crate::{
    catalog::{Catalog, MicroDollars},
    plan::{Plan, UnitPrices},
    resources::Resources,
    snapshot::{AffinityTerm, ClassId, Place, PodClass, PodId, Selector, Snapshot},
};

use super::{
    knapsack::{Item, at_most, greatest},
    matching::{
        certain, node_affinity_allows, ports_clash, possible, repelled, selects, shape_of, term_selects,
        volumes_allow,
    },
    offers::{Alternative, HOSTNAME_LABEL, Offers},
};

/// Why a certificate proves nothing.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum CertificateError {
    #[error("the plan's bound is {plan} micro-dollars, its certificate speaks of {certificate}")]
    Another { plan: i64, certificate: i64 },
    #[error("class {} has a negative worth or is unknown", class.0)]
    Dual { class: ClassId },
    #[error("the cap of class {} is not a preference that the plan keeps", class.0)]
    Cap { class: ClassId },
    #[error("group {group} of the certificate may share a machine in greater number")]
    Group { group: usize },
    #[error("{offering} can hold pods worth more than its {price} nano-dollars")]
    Worth { offering: Arc<str>, price: i64 },
    #[error("the search for the best filling of {0} did not end")]
    Undecided(Arc<str>),
    #[error("the duals prove {proven} micro-dollars, not {stated}")]
    TooHigh { proven: i64, stated: i64 },
}

/// Classes that have a worth.
struct Priced<'a> {
    class: &'a PodClass,
    worth: i64,
    cap: i64,
    /// One for each group of the certificate that the class belongs to, else zero.
    groups: Vec<i64>,
    /// Weight of the heaviest pool, without limits, that takes the class: lighter ones are closed to it.
    floor: i32,
}

/// Room of a machine, and the classes it takes.
type Kind = (Vec<i64>, Vec<usize>);

/// Re-prices every offering with the plan's duals, in integers, and returns what they prove, in whole
/// micro-dollars; never less than the plan's own bound.
pub fn reprice(
    snapshot: &Snapshot,
    catalog: &Catalog,
    plan: &Plan,
) -> Result<MicroDollars, CertificateError> {
    let (stated, plan_bound) = (plan.bound.price.0, plan.lower_bound.0);
    if stated != plan_bound {
        return Err(CertificateError::Another {
            plan: plan_bound,
            certificate: stated,
        });
    }
    let mut placed: BTreeMap<ClassId, i64> = BTreeMap::new();
    for (_, pod) in super::placements(plan) {
        *placed.entry(snapshot.pods[pod.0 as usize].class).or_default() += 1;
    }
    check_caps(snapshot, plan)?;
    check_groups(snapshot, plan)?;
    let mut offers = Offers::new(snapshot, catalog);
    let mut sold = Vec::new();
    for pool in &snapshot.pools {
        for id in catalog.by_pool.get(&pool.name).into_iter().flatten() {
            let machines = offers.of(pool, &[], *id);
            sold.extend((0..machines.len()).map(|i| (pool, machines.clone(), i)));
        }
    }
    let mut priced = Vec::new();
    for (id, worth) in &plan.bound.duals {
        let known = snapshot.classes.get(id.0 as usize).filter(|_| *worth >= 0);
        let class = known.ok_or(CertificateError::Dual { class: *id })?;
        let n = placed.get(id).copied().unwrap_or(0);
        let soft = plan
            .bound
            .caps
            .iter()
            .find(|(c, _)| c == id)
            .map_or(i64::MAX, |(_, cap)| i64::from(*cap));
        priced.push(Priced {
            class,
            worth: *worth,
            cap: own_cap(class, snapshot).min(soft).min(n),
            groups: plan
                .bound
                .groups
                .iter()
                .map(|(classes, _)| i64::from(classes.binary_search(id).is_ok()))
                .collect(),
            floor: i32::MIN,
        });
    }
    if weights_bind(snapshot) {
        for priced in &mut priced {
            let takers = sold.iter().filter(|(pool, machines, i)| {
                let machine = &machines[*i];
                pool.limits.is_empty()
                    && pool.requirements.iter().all(|r| r.min_values.is_none())
                    && machine.offering.reservation.is_none()
                    && repelled(priced.class, &pool.taints).is_none()
                    && allows(priced.class, machine)
                    && alone_fits(priced.class, &room(snapshot, machine))
            });
            priced.floor = takers.map(|(pool, ..)| pool.weight).max().unwrap_or(i32::MIN);
        }
    }

    let mut proven: i128 = priced
        .iter()
        .zip(&plan.bound.duals)
        .map(|(p, (id, _))| i128::from(p.worth) * i128::from(placed.get(id).copied().unwrap_or(0)))
        .sum();
    let mut excess: BTreeMap<&str, (i64, i64)> = BTreeMap::new();
    // Machines that differ in price or zone alone are searched once, at the lowest price.
    let mut kinds: BTreeMap<Kind, (i64, Arc<str>)> = BTreeMap::new();
    let names: BTreeSet<&Arc<str>> = priced
        .iter()
        .flat_map(|p| p.class.requests.iter().map(|(n, _)| n))
        .collect();
    let hints: Vec<Vec<i128>> = plan.bound.hints.iter().map(|h| multipliers(h, &names)).collect();
    let with_groups = |mut room: Vec<i64>| {
        room.extend(plan.bound.groups.iter().map(|(_, cap)| i64::from(*cap)));
        room
    };
    for (pool, machines, i) in &sold {
        let machine = &machines[*i];
        let open: Vec<usize> = (0..priced.len())
            .filter(|p| {
                let priced = &priced[*p];
                pool.weight >= priced.floor && repelled(priced.class, &pool.taints).is_none()
            })
            .filter(|p| allows(priced[*p].class, machine))
            .collect();
        let room = with_groups(amounts(&names, &room(snapshot, machine)));
        let price = machine.offering.price.0 * 1000;
        let name = format!(
            "{} in {} as {} of pool {}",
            catalog.types[machine.type_id.0 as usize].name,
            machine.offering.zone,
            machine.offering.capacity_type,
            pool.name
        );
        if let Some(reservation) = &machine.offering.reservation {
            let items = items(&priced, &open, &names);
            let worth =
                greatest(&items, &room, &hints).ok_or_else(|| CertificateError::Undecided(name.into()))?;
            let (remaining, most) = excess.entry(&reservation.id).or_default();
            *remaining = (*remaining).max(i64::from(reservation.remaining));
            *most = (*most).max(worth - price);
        } else {
            let kind = kinds
                .entry((room, open))
                .or_insert_with(|| (price, name.as_str().into()));
            if price < kind.0 {
                *kind = (price, name.into());
            }
        }
    }
    // What holds for a machine holds for every smaller one that takes fewer classes and costs no less.
    let mut kinds: Vec<(Kind, (i64, Arc<str>))> = kinds.into_iter().collect();
    kinds.sort_by(|a, b| a.1.0.cmp(&b.1.0).then_with(|| b.0.cmp(&a.0)));
    let mut checked: Vec<Kind> = Vec::new();
    for ((room, open), (price, name)) in kinds {
        let implied = checked.iter().any(|(larger, more)| {
            larger.iter().zip(&room).all(|(l, r)| l >= r)
                && (*more == open || open.iter().all(|p| more.binary_search(p).is_ok()))
        });
        if implied {
            continue;
        }
        match at_most(&items(&priced, &open, &names), &room, price, &hints) {
            Some(true) => checked.push((room, open)),
            Some(false) => {
                return Err(CertificateError::Worth {
                    offering: name,
                    price,
                });
            }
            None => return Err(CertificateError::Undecided(name)),
        }
    }
    for (remaining, most) in excess.into_values() {
        proven -= i128::from(remaining) * i128::from(most);
    }
    for (name, room, open) in nodes(snapshot, plan, &priced) {
        let worth = greatest(
            &items(&priced, &open, &names),
            &with_groups(amounts(&names, &room)),
            &hints,
        );
        proven -= i128::from(worth.ok_or(CertificateError::Undecided(name))?);
    }
    let proven = i64::try_from(proven.max(0) / 1000).unwrap_or(i64::MAX);
    if proven < stated {
        return Err(CertificateError::TooHigh { proven, stated });
    }
    Ok(MicroDollars(proven))
}

/// The hint by the names of resources, and then by groups; without a price for one that it does not name.
fn multipliers(hint: &UnitPrices, names: &BTreeSet<&Arc<str>>) -> Vec<i128> {
    let price = |name: &&Arc<str>| {
        hint.resources
            .iter()
            .find(|(n, _)| n == *name)
            .map_or(0, |(_, p)| *p)
    };
    names
        .iter()
        .map(price)
        .chain(hint.groups.iter().copied())
        .collect()
}

fn amounts(names: &BTreeSet<&Arc<str>>, room: &Resources) -> Vec<i64> {
    names
        .iter()
        .map(|name| room.get(*name).copied().unwrap_or(0).max(0))
        .collect()
}

fn items(priced: &[Priced], open: &[usize], names: &BTreeSet<&Arc<str>>) -> Vec<Item> {
    open.iter()
        .map(|p| {
            let Priced {
                class,
                worth,
                cap,
                groups,
                ..
            } = &priced[*p];
            let requests: Resources = class.requests.iter().cloned().collect();
            let mut size = amounts(names, &requests);
            size.extend(groups);
            Item {
                worth: *worth,
                size,
                most: *cap,
            }
        })
        .collect()
}

fn allows(class: &PodClass, machine: &Alternative) -> bool {
    node_affinity_allows(class, &machine.shape, possible) && volumes_allow(class, &machine.shape, possible)
}

fn alone_fits(class: &PodClass, room: &Resources) -> bool {
    class
        .requests
        .iter()
        .all(|(name, amount)| room.get(name).copied().unwrap_or(0) >= *amount)
}

/// Allocatable less the daemons that run there whatever the open labels become.
fn room(snapshot: &Snapshot, machine: &Alternative) -> Resources {
    let mut room = machine.allocatable.clone();
    for daemon in &machine.daemons {
        let class = &snapshot.classes[snapshot.daemon_sets[*daemon].class.0 as usize];
        if node_affinity_allows(class, &machine.shape, certain)
            && volumes_allow(class, &machine.shape, certain)
        {
            subtract(&mut room, class);
        }
    }
    room
}

fn subtract(room: &mut Resources, class: &PodClass) {
    for (name, amount) in &class.requests {
        *room.entry(name.clone()).or_default() -= amount;
    }
}

fn own_cap(class: &PodClass, snapshot: &Snapshot) -> i64 {
    let own_spread = |selector: &Selector| selects(selector, &class.labels);
    let own_term = |term: &AffinityTerm| term_selects(term, &class.namespace, class, &snapshot.namespaces);
    let apart = class
        .anti_affinity
        .iter()
        .any(|t| &*t.topology_key == HOSTNAME_LABEL && own_term(t));
    let spread = class
        .spread
        .iter()
        .filter(|c| c.hard && &*c.topology_key == HOSTNAME_LABEL && own_spread(&c.selector))
        .map(|c| i64::from(c.max_skew));
    let one = (apart || !class.host_ports.is_empty()).then_some(1);
    spread.chain(one).min().unwrap_or(i64::MAX)
}

/// Each cap is a preference of the class that the plan keeps on every machine it fills.
fn check_caps(snapshot: &Snapshot, plan: &Plan) -> Result<(), CertificateError> {
    for (id, cap) in &plan.bound.caps {
        let wrong = Err(CertificateError::Cap { class: *id });
        let Some(class) = snapshot.classes.get(id.0 as usize) else {
            return wrong;
        };
        let apart = class.preferred_anti_affinity.iter().any(|(_, term)| {
            &*term.topology_key == HOSTNAME_LABEL
                && term_selects(term, &class.namespace, class, &snapshot.namespaces)
        });
        let spread = class.spread.iter().any(|c| {
            !c.hard
                && &*c.topology_key == HOSTNAME_LABEL
                && selects(&c.selector, &class.labels)
                && c.max_skew <= *cap
        });
        let of_class = |pods: &mut dyn Iterator<Item = PodId>| {
            pods.filter(|pod| snapshot.pods[pod.0 as usize].class == *id)
                .count() as u32
        };
        let kept_new = plan
            .launches
            .iter()
            .all(|l| of_class(&mut l.pods.iter().copied()) <= *cap);
        let mut by_node: BTreeMap<_, Vec<PodId>> = BTreeMap::new();
        for a in &plan.assignments {
            by_node.entry(a.node).or_default().push(a.pod);
        }
        let kept_old = by_node
            .values()
            .all(|pods| of_class(&mut pods.iter().copied()) <= *cap);
        if !((apart && *cap >= 1 || spread) && kept_new && kept_old) {
            return wrong;
        }
    }
    Ok(())
}

/// Each group is kept small by the rules of its own classes.
fn check_groups(snapshot: &Snapshot, plan: &Plan) -> Result<(), CertificateError> {
    for (group, (ids, cap)) in plan.bound.groups.iter().enumerate() {
        let known = ids.iter().map(|id| snapshot.classes.get(id.0 as usize));
        let Some(classes) = known.collect::<Option<Vec<&PodClass>>>() else {
            return Err(CertificateError::Group { group });
        };
        let repels = |a: &PodClass, b: &PodClass| {
            a.anti_affinity.iter().any(|term| {
                &*term.topology_key == HOSTNAME_LABEL
                    && term_selects(term, &a.namespace, b, &snapshot.namespaces)
            })
        };
        let clash = |a: &PodClass, b: &PodClass| {
            a.host_ports
                .iter()
                .any(|ours| b.host_ports.iter().any(|theirs| ports_clash(ours, theirs)))
        };
        let apart = classes.iter().enumerate().all(|(i, a)| {
            classes[i..]
                .iter()
                .all(|b| repels(a, b) || repels(b, a) || clash(a, b))
        });
        let spread = |a: &PodClass| {
            a.spread.iter().any(|c| {
                let all = |b: &&PodClass| b.namespace == a.namespace && selects(&c.selector, &b.labels);
                c.hard && &*c.topology_key == HOSTNAME_LABEL && c.max_skew <= *cap && classes.iter().all(all)
            })
        };
        if !(apart && *cap >= 1 || classes.iter().all(|class| spread(class))) {
            return Err(CertificateError::Group { group });
        }
    }
    Ok(())
}

/// Whether a class that a heavier pool takes never needs a lighter one: not when topology may force it out.
fn weights_bind(snapshot: &Snapshot) -> bool {
    snapshot.classes.iter().all(|class| {
        class.affinity.is_empty()
            && class
                .spread
                .iter()
                .all(|c| !c.hard || &*c.topology_key == HOSTNAME_LABEL)
            && class
                .anti_affinity
                .iter()
                .all(|t| &*t.topology_key == HOSTNAME_LABEL)
    })
}

/// Room of the nodes that stay, beside the pods that the plan leaves there, and the classes they take.
fn nodes(snapshot: &Snapshot, plan: &Plan, priced: &[Priced]) -> Vec<(Arc<str>, Resources, Vec<usize>)> {
    let moved: BTreeSet<PodId> = super::placements(plan).map(|(_, pod)| pod).collect();
    let mut rooms: Vec<Resources> = snapshot
        .nodes
        .iter()
        .map(|node| node.allocatable.clone())
        .collect();
    let mut daemons: Vec<Resources> = vec![Resources::new(); snapshot.nodes.len()];
    for (i, pod) in snapshot.pods.iter().enumerate() {
        let stays = !moved.contains(&PodId(i as u32));
        if let (Place::Bound(node) | Place::Assigned(node), true) = (pod.place, stays) {
            let class = &snapshot.classes[pod.class.0 as usize];
            subtract(&mut rooms[node.0 as usize], class);
            if pod.daemon {
                subtract(&mut daemons[node.0 as usize], class);
            }
        }
    }
    // Daemons that should run there and do not yet keep their room.
    for ((node, room), running) in snapshot.nodes.iter().zip(&mut rooms).zip(daemons) {
        let shape = shape_of(&node.labels);
        let mut missing = running;
        for set in &snapshot.daemon_sets {
            let class = &snapshot.classes[set.class.0 as usize];
            if repelled(class, &node.taints).is_none() && node_affinity_allows(class, &shape, certain) {
                for (name, amount) in &class.requests {
                    *missing.entry(name.clone()).or_default() += amount;
                }
            }
        }
        for (name, amount) in missing {
            *room.entry(name).or_default() -= amount.max(0);
        }
    }
    let staying = snapshot.nodes.iter().zip(rooms).filter(|(node, _)| !node.leaving);
    staying
        .map(|(node, room)| {
            let shape = shape_of(&node.labels);
            let open = (0..priced.len()).filter(|p| {
                let class = priced[*p].class;
                repelled(class, &node.taints).is_none()
                    && node_affinity_allows(class, &shape, certain)
                    && volumes_allow(class, &shape, certain)
            });
            (node.name.clone(), room, open.collect())
        })
        .collect()
}
