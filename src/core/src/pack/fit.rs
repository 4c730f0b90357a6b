//! How many more pods of a class a machine takes: arithmetic on room, and the rules of the hostname.

use fixedbitset::FixedBitSet;

use super::topology::Topology;

/// Pods of a class on one machine.
pub(super) type Part = (u32, u32);

/// How many pods with this request fit into the room.
pub(super) fn times(room: &[i64], request: &[i64]) -> u32 {
    let mut most = i64::from(u32::MAX);
    for (have, want) in room.iter().zip(request) {
        if *want > 0 {
            if want > have {
                return 0;
            }
            most = most.min(have / want);
        }
    }
    most as u32
}

/// Takes `n` pods with this request from the room.
pub(super) fn take(room: &mut [i64], request: &[i64], n: u32) {
    for (have, want) in room.iter_mut().zip(request) {
        *have -= want * i64::from(n);
    }
}

/// Gives `n` pods with this request back.
pub(super) fn give(room: &mut [i64], request: &[i64], n: u32) {
    for (have, want) in room.iter_mut().zip(request) {
        *have += want * i64::from(n);
    }
}

/// Removes what [`add_part`] added.
pub(super) fn remove_part(parts: &mut Vec<Part>, class: u32, n: u32) {
    if let Some((_, count)) = parts.iter_mut().find(|(c, _)| *c == class) {
        *count -= n;
    }
    parts.retain(|(_, n)| *n > 0);
}

pub(super) fn add_part(parts: &mut Vec<Part>, class: u32, n: u32) {
    match parts.iter_mut().find(|(c, _)| *c == class) {
        Some((_, count)) => *count += n,
        None => parts.push((class, n)),
    }
}

/// Whether anti-affinity or a host port keeps pods of `class` away from `parts`.
pub(super) fn excluded(topology: &Topology, parts: &[Part], class: u32) -> bool {
    let groups = topology.host_rules[class as usize].groups.iter();
    let mut groups = groups.map(|g| &topology.hosts[*g as usize]);
    groups.any(|group| {
        let present = |set: &FixedBitSet| parts.iter().any(|(c, _)| set.contains(*c as usize));
        group.cap.is_none()
            && !group.soft
            && ((group.carriers.contains(class as usize) && present(&group.members))
                || (group.members.contains(class as usize) && present(&group.carriers)))
    })
}

/// How many more pods of `class` the host rules admit beside `parts`. Classes in `soft_ignored` disregard preferences.
pub(super) fn host_limit(topology: &Topology, soft_ignored: &FixedBitSet, parts: &[Part], class: u32) -> u32 {
    let rules = &topology.host_rules[class as usize];
    let mut limit = u32::MAX;
    let ignores = soft_ignored.contains(class as usize);
    for group in &rules.groups {
        let group = &topology.hosts[*group as usize];
        if group.soft && ignores {
            continue;
        }
        let carries = group.carriers.contains(class as usize);
        let is_member = group.members.contains(class as usize);
        let carried = |parts: &[Part]| {
            parts.iter().any(|(c, _)| {
                group.carriers.contains(*c as usize) && !(group.soft && soft_ignored.contains(*c as usize))
            })
        };
        match group.cap {
            None => {
                let member_present = || parts.iter().any(|(c, _)| group.members.contains(*c as usize));
                if (carries && member_present()) || (is_member && carried(parts)) {
                    return 0;
                }
                if carries && is_member {
                    limit = limit.min(1);
                }
            }
            Some(cap) => {
                if !carries && !carried(parts) {
                    continue;
                }
                let members = parts.iter().filter(|(c, _)| group.members.contains(*c as usize));
                let present: u32 = members.map(|(_, n)| *n).sum();
                if is_member {
                    limit = limit.min(cap.saturating_sub(present));
                } else if present > cap {
                    return 0;
                }
            }
        }
    }
    limit
}
