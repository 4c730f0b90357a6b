//! One table test for each rule.

use super::notation::{World, check};

#[test]
fn resources_and_prices() {
    // Two small ones are cheaper than a large one, and the other way round.
    check(
        "type l cpu=8 mem=32 price=3\ntype s cpu=4 mem=16 price=1\npool p\npod a x8 cpu=1 mem=1",
        "s a: a*4 | s a: a*4",
    );
    check(
        "type l cpu=8 mem=32 price=1.5\ntype s cpu=4 mem=16 price=1\npool p\npod a x8 cpu=1 mem=1",
        "l a: a*8",
    );
    check(
        "type s cpu=4 mem=16 price=1\npool p\npod a cpu=5",
        "left a*1: Resources",
    );
    check(
        "type g cpu=4 mem=16 gpu=1 price=3\ntype s cpu=4 mem=16 price=1\npool p\npod a cpu=1 gpu=1",
        "g a: a",
    );
    check(
        "type s cpu=4 mem=16 price=1 pods=2\npool p\npod a x3 cpu=1",
        "s a: a | s a: a*2",
    );
    check("pod a cpu=1", "left a*1: NoPools");
}

#[test]
fn daemons_take_their_room_first() {
    check(
        "type s cpu=4 mem=16 price=1\npool p\ndaemon cpu=1\npod a x4 cpu=1",
        "s a: a | s a: a*3",
    );
    check(
        "type s cpu=4 mem=16 price=1\npool p\ndaemon cpu=1\nnode n cpu=4 mem=8\npod a x4 cpu=1",
        "n: a*3 | s a: a",
    );
}

#[test]
fn node_affinity() {
    let types = "type arm cpu=4 mem=16 price=1 arch=arm64\ntype x cpu=4 mem=16 price=2 zones=a,b\npool p\n";
    check(&format!("{types}pod a cpu=1"), "arm a: a");
    check(&format!("{types}pod a cpu=1 need=arch:amd64"), "x a: a");
    check(
        &format!("{types}pod a cpu=1 need=arch:amd64 need=zone:b"),
        "x b: a",
    );
    check(&format!("{types}pod a cpu=1 or=zone:b or=arch:arm64"), "arm a: a");
    check(
        &format!("{types}pod a cpu=1 need=zone:c"),
        "left a*1: Requirements",
    );
    check(&format!("{types}pod a cpu=1 need=arch!arm64"), "x a: a");
    check(&format!("{types}pod a cpu=1 need=team"), "left a*1: Requirements");
    check(&format!("{types}pod a cpu=1 need=team!red"), "arm a: a");
}

#[test]
fn custom_labels_come_from_the_pool() {
    let types = "type s cpu=4 mem=16 price=1\npool p need=team:red,blue\n";
    let world = World::read(&format!(
        "{types}pod a cpu=1 need=team:blue\npod b cpu=1 need=team:red"
    ));
    let (plan, report) = world.solve();
    assert_eq!(world.print(&plan, &report), "s a: a | s a: b");
    let teams: Vec<String> = plan
        .launches
        .iter()
        .flat_map(|l| l.requirements.iter().filter(|r| &*r.key == "team"))
        .map(|r| r.values.join(","))
        .collect();
    assert_eq!(teams.len(), 2);
    assert!(
        teams.contains(&"blue".to_owned()) && teams.contains(&"red".to_owned()),
        "{teams:?}"
    );
    check(
        &format!("{types}pod a cpu=1 need=team:green"),
        "left a*1: Requirements",
    );
}

#[test]
fn taints() {
    let types = "type s cpu=4 mem=16 price=1\n";
    check(
        &format!("{types}pool p taint=gpu\npod a cpu=1"),
        "left a*1: Taint",
    );
    check(
        &format!("{types}pool p taint=gpu\npod a cpu=1 tolerates=gpu"),
        "s a: a",
    );
    check(&format!("{types}pool p startup=cni\npod a cpu=1"), "s a: a");
    check(
        &format!("{types}pool p\nnode n cpu=4 mem=4 taint=x\npod a cpu=1"),
        "s a: a",
    );
    // A soft taint is avoided, but not at the price of a pod.
    check(
        &format!("{types}pool p\nnode n cpu=4 mem=4 taint=x?\npod a cpu=1"),
        "s a: a",
    );
    check(&format!("{types}pool p taint=x?\npod a cpu=1"), "s a: a");
}

#[test]
fn existing_machines_are_free() {
    let types = "type s cpu=4 mem=16 price=1\npool p\n";
    check(
        &format!("{types}node n cpu=4 mem=4 has=a:2\npod a x4 cpu=1"),
        "n: a*2 | s a: a*2",
    );
    check(
        &format!("{types}node n cpu=4 mem=4 leaving=1\npod a cpu=1"),
        "s a: a",
    );
}

#[test]
fn zone_spread() {
    let types = "type s cpu=4 mem=16 price=1 zones=a,b,c\npool p\n";
    check(
        &format!("{types}pod a x6 cpu=1 spread=zone:1"),
        "s a: a*2 | s b: a*2 | s c: a*2",
    );
    // Two pods stand in zone a already.
    check(
        &format!("{types}node n cpu=2 mem=4 has=a:2\npod a x2 cpu=1 spread=zone:1"),
        "s b: a | s c: a",
    );
    // Zone c cannot be had by this pod, so it is no domain for it.
    check(
        &format!("{types}pod a x4 cpu=1 spread=zone:1 need=zone:a,b"),
        "s a: a*2 | s b: a*2",
    );
    // Fewer domains than asked for: the least count is taken as zero.
    check(
        &format!("{types}pod a x4 cpu=1 spread=zone:1:4"),
        "s a: a | s b: a | s c: a | left a*1: Topology",
    );
}

#[test]
fn hostname_spread_caps_a_machine() {
    check(
        "type s cpu=4 mem=16 price=1\npool p\npod a x5 cpu=1 spread=host:2",
        "s a: a | s a: a*2 | s a: a*2",
    );
}

#[test]
fn anti_affinity() {
    let types = "type s cpu=4 mem=16 price=1 zones=a,b\npool p\n";
    check(
        &format!("{types}pod a x3 cpu=1 apart=a@host"),
        "s a: a | s a: a | s a: a",
    );
    check(
        &format!("{types}pod a x3 cpu=1 apart=a@zone"),
        "s a: a | s b: a | left a*1: Topology",
    );
    // The inverse: b does not mind a, but a minds b.
    check(
        &format!("{types}pod a cpu=1 apart=b@host\npod b cpu=1"),
        "s a: a | s a: b",
    );
    check(
        &format!("{types}node n cpu=4 mem=4 has=a:1\npod a x0 cpu=1 apart=b@host\npod b cpu=1"),
        "s a: b",
    );
    check(
        &format!("{types}node n cpu=4 mem=4 has=a:1\npod a x0 cpu=1 apart=b@zone\npod b cpu=1"),
        "s b: b",
    );
}

#[test]
fn affinity() {
    let types = "type s cpu=4 mem=16 price=1 zones=a,b\npool p\n";
    // Pods with affinity to their own kind start somewhere, all in one zone.
    check(
        &format!("{types}pod a x6 cpu=1 with=a@zone"),
        "s a: a*2 | s a: a*4",
    );
    check(&format!("{types}pod a x4 cpu=1 with=a@host"), "s a: a*4");
    check(
        &format!("{types}pod a x5 cpu=1 with=a@host"),
        "s a: a*4 | left a*1: Topology",
    );
    // Towards others: zone of what runs, zone of what is planned, and the same machine.
    check(
        &format!("{types}node n cpu=1 mem=4 zone=b has=w:1\npod w x0 cpu=1\npod a cpu=1 with=w@zone"),
        "s b: a",
    );
    check(
        &format!("{types}pod w cpu=1 need=zone:b\npod a cpu=4 with=w@zone"),
        "s b: a | s b: w",
    );
    check(
        &format!("{types}pod w cpu=1\npod a cpu=1 with=w@host"),
        "s a: a + w",
    );
    check(&format!("{types}pod a cpu=1 with=w@zone"), "left a*1: Topology");
}

#[test]
fn a_follower_makes_the_machine_larger() {
    check(
        "type s cpu=2 mem=16 price=1\ntype l cpu=4 mem=16 price=2\npool p\npod w cpu=2\npod a cpu=2 with=w@host",
        "l a: a + w",
    );
}

#[test]
fn pool_weight() {
    let types = "type s cpu=4 mem=16 price=1\ntype x cpu=4 mem=16 price=2\n";
    check(
        &format!("{types}pool cheap need=type:s\npool heavy weight=10 need=type:x\npod a cpu=1"),
        "x a: a",
    );
    check(
        &format!(
            "{types}pool cheap need=type:s\npool heavy weight=10 need=type:x limit=cpu:4\npod a x8 cpu=1"
        ),
        "s a: a*4 | x a: a*4",
    );
}

#[test]
fn limits_hold_exactly() {
    let types = "type l cpu=8 mem=32 price=2\ntype s cpu=4 mem=16 price=1.1\n";
    check(
        &format!("{types}pool p limit=cpu:12\npod a x16 cpu=1"),
        "l a: a*8 | s a: a*4 | left a*4: Limit",
    );
    check(
        &format!("{types}pool p limit=nodes:1\npod a x16 cpu=1"),
        "l a: a*8 | left a*8: Limit",
    );
    check(
        &format!("{types}pool p limit=cpu:12\nnode n cpu=8 mem=4 pool=p has=a:8\npod a x8 cpu=1"),
        "s a: a*4 | left a*4: Limit",
    );
    // A type that would break the limit is not offered either.
    let world = World::read(&format!("{types}pool p limit=cpu:4\npod a cpu=1"));
    let (plan, _) = world.solve();
    assert_eq!(plan.launches[0].types.len(), 1);
}

#[test]
fn spot_and_its_interruptions() {
    let types = "type s cpu=4 mem=16 price=1 spot=0.9\npool p\n";
    check(&format!("{types}pod a cpu=1"), "s a spot: a");
    check(&format!("{types}pod a cpu=1 need=ct:on-demand"), "s a: a");
    // Half an interruption a month at $200 each is about 14 cents an hour.
    check(&format!("{types}policy interruption=200\npod a cpu=1"), "s a: a");
}

#[test]
fn reservations_are_finite() {
    check(
        "type s cpu=4 mem=16 price=1 reserved=2\npool p\npod a x3 cpu=4",
        "s a reserved: a | s a reserved: a | s a: a",
    );
}

#[test]
fn what_is_sold_out_is_not_bought() {
    check(
        "type s cpu=4 mem=16 price=1 zones=a,b sold-out=a\npool p\npod a cpu=1",
        "s b: a",
    );
    check(
        "type s cpu=4 mem=16 price=1 sold-out=a\npool p\npod a cpu=1",
        "left a*1: Offering",
    );
}

#[test]
fn host_ports() {
    let types = "type s cpu=4 mem=16 price=1\npool p\n";
    check(&format!("{types}pod a x2 cpu=1 port=80"), "s a: a | s a: a");
    check(
        &format!("{types}pod a cpu=1 port=80\npod b cpu=1 port=80\npod c cpu=1 port=81"),
        "s a: a + c | s a: b",
    );
    check(
        &format!("{types}node n cpu=4 mem=4 has=a:1\npod a x1 cpu=1 port=80"),
        "s a: a",
    );
}

#[test]
fn volumes() {
    let types = "type s cpu=4 mem=16 price=1 zones=a,b\npool p\n";
    check(&format!("{types}pod a cpu=1 reach=zone:b"), "s b: a");
    check(&format!("{types}pod a cpu=1 reach=zone:c"), "left a*1: Volume");
    // The node attaches one volume; the two pods of b share theirs.
    check(
        &format!("{types}node n cpu=4 mem=4 volumes=1\npod a cpu=1 volume=v1\npod b x2 cpu=0.5 volume=v2"),
        "n: a | s a: b*2",
    );
}

#[test]
fn min_values() {
    let types = "type a1 cpu=4 mem=16 price=1 label=fam:a\ntype b1 cpu=4 mem=16 price=2 label=fam:b\ntype c1 cpu=8 mem=16 price=4 label=fam:a\n";
    let world = World::read(&format!("{types}pool p min=fam:2\npod a cpu=1"));
    let (plan, report) = world.solve();
    assert_eq!(world.print(&plan, &report), "a1 a: a");
    assert!(plan.launches[0].types.len() >= 2 && !plan.launches[0].min_values_relaxed);
    // Only one family has a type of eight cores.
    check(
        &format!("{types}pool p min=fam:2\npod a cpu=8"),
        "left a*1: MinValues",
    );
    let world = World::read(&format!(
        "{types}policy minValues=BestEffort\npool p min=fam:2\npod a cpu=8"
    ));
    let (plan, report) = world.solve();
    assert_eq!(world.print(&plan, &report), "c1 a: a");
    assert!(plan.launches[0].min_values_relaxed);
}

#[test]
fn preferences() {
    let types = "type s cpu=4 mem=16 price=1 zones=a,b\ntype arm cpu=4 mem=16 price=2 arch=arm64\npool p\n";
    check(&format!("{types}pod a cpu=1 like=zone:b"), "s b: a");
    check(&format!("{types}pod a cpu=1 like=arch:arm64"), "arm a: a");
    check(
        &format!("{types}policy preferences=Ignore\npod a cpu=1 like=arch:arm64"),
        "s a: a",
    );
    // What cannot be kept is given up, the rest stays.
    check(&format!("{types}pod a cpu=1 like=zone:x like=zone:b"), "s b: a");
    check(&format!("{types}pod a x2 cpu=1 apart?=a@host"), "s a: a | s a: a");
    check(
        &format!("{types}pod a x3 cpu=1 apart?=a@zone"),
        "s a: a*2 | s b: a",
    );
    check(
        &format!("{types}pod a x4 cpu=1 spread?=zone:1"),
        "s a: a*2 | s b: a*2",
    );
    check(
        "type s cpu=4 mem=16 price=1\npool p limit=nodes:1\npod a x2 cpu=1 apart?=a@host",
        "s a: a*2",
    );
}
