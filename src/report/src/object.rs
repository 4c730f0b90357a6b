//! The savings report as the status of a Report: short, and bounded whatever the cluster's size.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use plimsoll_api::report::{
    MACHINES_MAX, MachineGroup, Money, NOTE_MAX, NOTES_MAX, RESTRAINTS_MAX, ReportStatus, Restraint,
    TEXT_MAX, Watched,
};

use crate::savings::{Action, Cost, PriceBasis, SavingsReport};

/// The status that says what `report` says. Sums go on from those of `before`, unless nobody looked for longer than
/// `longest_gap`: then only the time since counts for nothing.
pub fn report_status(
    report: &SavingsReport,
    before: Option<&ReportStatus>,
    longest_gap: Duration,
) -> ReportStatus {
    let (remove, remove_cut) = cut(removed(report), MACHINES_MAX);
    let (buy, buy_cut) = cut(bought(report), MACHINES_MAX);
    let (restraints, restraints_cut) = cut(restraints(report), RESTRAINTS_MAX);
    let notes: Vec<String> = report.notes.iter().map(|n| start(n, NOTE_MAX)).collect();
    let (notes, notes_cut) = cut(notes, NOTES_MAX);
    ReportStatus {
        observed_at: Some(Time(report.taken)),
        prices: prices_line(&report.prices),
        nodes: report.totals.nodes as i32,
        nodes_unpriced: report.totals.nodes_unpriced as i32,
        pods: report.totals.pods as i32,
        pods_waiting: report.totals.pods_waiting as i32,
        now: money(report.now),
        reachable: money(report.reachable.cost),
        reachable_with_spot: money(report.reachable_with_spot.cost),
        reachable_with_arm64: money(report.reachable_with_arm64.cost),
        unblocked: money(report.unblocked.cost),
        bound: money(report.bound),
        saves_percent: report.reachable.saves_percent.round() as i32,
        remove,
        buy,
        restraints,
        watched: Some(watched(report, before, longest_gap)),
        notes,
        omitted: remove_cut + buy_cut + restraints_cut + notes_cut,
    }
}

fn removed(report: &SavingsReport) -> Vec<MachineGroup> {
    let gone = report.nodes.iter().filter(|n| n.action == Action::Remove);
    grouped(gone.map(|n| {
        let texts = [&n.pool, &n.instance_type, &n.zone, &n.capacity_type];
        (texts.map(|t| short(t)), n.per_hour)
    }))
}

fn bought(report: &SavingsReport) -> Vec<MachineGroup> {
    grouped(report.new_machines.iter().map(|m| {
        let texts = [&m.pool, &m.instance_type, &m.zone, &m.capacity_type];
        (texts.map(|t| short(t)), Some(m.per_hour))
    }))
}

/// Equal machines together, those that cost most together first.
fn grouped(machines: impl Iterator<Item = ([String; 4], Option<f64>)>) -> Vec<MachineGroup> {
    let mut groups: BTreeMap<[String; 4], (i32, Option<f64>)> = BTreeMap::new();
    for (key, per_hour) in machines {
        let group = groups.entry(key).or_insert((0, per_hour));
        group.0 += 1;
    }
    let mut groups: Vec<_> = groups.into_iter().collect();
    let total = |(_, (count, per_hour)): &([String; 4], (i32, Option<f64>))| {
        per_hour.unwrap_or(0.0) * f64::from(*count)
    };
    // Stable, so that equals keep their order by name.
    groups.sort_by(|a, b| total(b).total_cmp(&total(a)));
    let group = |([pool, instance_type, zone, capacity_type], (count, per_hour)): (
        [String; 4],
        (i32, Option<f64>),
    )| {
        MachineGroup {
            count,
            pool,
            instance_type,
            zone,
            capacity_type,
            per_hour: per_hour.map(decimal),
        }
    };
    groups.into_iter().map(group).collect()
}

/// Those that hold something, with a price before those without, dearest first.
fn restraints(report: &SavingsReport) -> Vec<Restraint> {
    let mut rows: Vec<_> = report.restraints.iter().collect();
    let price = |r: &crate::savings::RestraintRow| r.per_month.unwrap_or(-1.0);
    rows.sort_by(|a, b| price(b).total_cmp(&price(a)));
    let row = |r: &crate::savings::RestraintRow| Restraint {
        kind: format!("{:?}", r.kind),
        subject: short(&r.subject),
        owner: r.owner().map(|owner| short(&owner)),
        per_month: r.per_month.map(|m| format!("{m:.2}")),
        fix: r.kind.fix().to_owned(),
    };
    rows.into_iter().map(row).collect()
}

/// What was paid since the last look is what was found then, for the time between.
fn watched(report: &SavingsReport, before: Option<&ReportStatus>, longest_gap: Duration) -> Watched {
    let known = before.and_then(|b| Some((b, b.watched.as_ref()?, b.observed_at.as_ref()?)));
    let Some((before, sums, last)) = known else {
        return Watched {
            since: Time(report.taken),
            seconds: 0,
            paid: decimal(0.0),
            reachable: decimal(0.0),
        };
    };
    let seconds = report.taken.as_second() - last.0.as_second();
    let seconds = if seconds > 0 && seconds as u64 <= longest_gap.as_secs() {
        seconds
    } else {
        0
    };
    let sum = |sum: &str, per_hour: &str| {
        let number = |text: &str| text.parse::<f64>().unwrap_or(0.0);
        decimal(number(sum) + number(per_hour) * seconds as f64 / 3600.0)
    };
    Watched {
        since: sums.since.clone(),
        seconds: sums.seconds + seconds,
        paid: sum(&sums.paid, &before.now.per_hour),
        reachable: sum(&sums.reachable, &before.reachable.per_hour),
    }
}

/// Where prices come from, and of which day they are.
pub(crate) fn prices_line(prices: &PriceBasis) -> String {
    let day = prices
        .date
        .as_ref()
        .map_or(String::new(), |day| format!(", of {day}"));
    short(&format!("{}{day}", prices.source))
}

pub(crate) fn money(cost: Cost) -> Money {
    Money {
        per_hour: decimal(cost.per_hour),
        per_month: format!("{:.2}", cost.per_month),
    }
}

pub(crate) fn decimal(dollars: f64) -> String {
    format!("{dollars:.4}")
}

/// The first of a list, and how many were left out.
fn cut<T>(mut list: Vec<T>, most: usize) -> (Vec<T>, i32) {
    let left_out = list.len().saturating_sub(most);
    list.truncate(most);
    (list, left_out as i32)
}

pub(crate) fn short(text: &str) -> String {
    start(text, TEXT_MAX)
}

fn start(text: &str, most: usize) -> String {
    let mut end = text.len().min(most);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}
