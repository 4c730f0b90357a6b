//! One table test for each rule.

use super::notation::{World, check, explain, sound};

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
fn requests_as_large_as_they_get_stop_nobody_else() {
    // 128 TiB and as many thousandths of a core: what the index makes of anything larger.
    let world = "type s cpu=4 mem=16 price=1 zones=a\npool p\nnode n cpu=4 mem=8\n";
    let huge = "cpu=140737488355 mem=131072";
    check(
        &format!("{world}pod huge x3000 {huge}\npod a x4 cpu=1"),
        "n: a*4 | left huge*3000: Resources",
    );
    check(
        &format!("{world}daemon {huge}\ndaemon {huge}\npod a x4 cpu=1"),
        "left a*4: Resources",
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
    // A heavier pool whose `minValues` a pod leaves too few types for does not take it.
    check(
        "type s cpu=2 mem=8 price=1 label=fam:x\ntype m cpu=8 mem=32 price=10 label=fam:y\n\
         type l cpu=8 mem=32 price=1 label=fam:z\npool cheap need=type:l\npool heavy weight=10 need=type:s,m min=fam:2\n\
         pod a cpu=4",
        "l a: a",
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
        &format!("{types}pod a cpu=1 port=80\npod b cpu=4 port=80\npod c cpu=1 port=81"),
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

#[test]
fn bounds_and_absence() {
    let types = "type s cpu=4 mem=16 price=1 label=gen:5\ntype n cpu=4 mem=16 price=2 label=gen:7\n";
    check(&format!("{types}pool p\npod a cpu=1 need=gen>5"), "n a: a");
    check(&format!("{types}pool p\npod a cpu=1 need=gen<7"), "s a: a");
    check(
        &format!("{types}pool p\npod a cpu=1 need=gen>5 need=gen<7"),
        "left a*1: Requirements",
    );
    check(&format!("{types}pool p need=gen>5\npod a cpu=1"), "n a: a");
    check(&format!("{types}pool p\npod a cpu=1 need=!team"), "s a: a");
    check(
        &format!("{types}pool p need=team:red\npod a cpu=1 need=!team"),
        "left a*1: Requirements",
    );
}

#[test]
fn spread_policies_say_which_machines_count() {
    let types = "type s cpu=4 mem=16 price=1 zones=a,b\n";
    // The pods on the tainted node are not counted when taints are honoured.
    let node = "pool p\nnode n cpu=4 mem=4 taint=x has=a:2\n";
    check(&format!("{types}{node}pod a x2 cpu=1 spread=zone:1"), "s b: a*2");
    check(
        &format!("{types}{node}pod a x2 cpu=1 spread=zone:1 honor-taints=1"),
        "s a: a | s b: a",
    );
    // A machine in a zone that node affinity excludes is a domain all the same when affinity is not honoured.
    let node = "pool p\nnode n cpu=1 mem=1 zone=b\n";
    check(
        &format!("{types}{node}pod a x2 cpu=1 spread=zone:1 need=zone:a any-node=1"),
        "s a: a | left a*1: Topology",
    );
    check(
        &format!("{types}{node}pod a x2 cpu=1 spread=zone:1 need=zone:a"),
        "s a: a*2",
    );
}

#[test]
fn namespaces_of_affinity() {
    let types = "type s cpu=4 mem=16 price=1 zones=a,b\npool p\n";
    let web = "pod web cpu=1 ns=other need=zone:b\n";
    check(
        &format!("{types}{web}pod a cpu=4 with=web@zone"),
        "s b: web | left a*1: Topology",
    );
    check(
        &format!("{types}{web}pod a cpu=4 with=other/web@zone"),
        "s b: a | s b: web",
    );
    check(
        &format!("{types}{web}pod a cpu=1 apart=other/web@host"),
        "s a: a | s b: web",
    );
}

#[test]
fn required_terms_count_only_pods_that_all_of_them_select() {
    // No pod is both: kube-scheduler finds none that matches all terms.
    check(
        "type s cpu=4 mem=16 price=1\npool p\npod b cpu=1\npod c cpu=1\npod a cpu=1 with=b@zone with=c@zone",
        "s a: b + c | left a*1: Topology",
    );
}

#[test]
fn pods_that_move_and_pods_that_were_promised_a_place() {
    let types = "type s cpu=4 mem=16 price=1\npool p\n";
    check(
        &format!("{types}node n cpu=4 mem=16 leaving=1 moving=a:2\npod a x0 cpu=1"),
        "s a: a*2",
    );
    // The promise holds its room; nobody else gets it.
    check(
        &format!("{types}node n cpu=2 mem=16 promised=a:1\npod a x0 cpu=1\npod b x2 cpu=1"),
        "n: b | s a: b",
    );
    // A promise that cannot be kept is planned again.
    check(
        &format!("{types}node n cpu=1 mem=16 promised=a:1\npod a x0 cpu=2"),
        "s a: a",
    );
}

#[test]
fn several_volumes_must_be_reachable_together() {
    let types = "type s cpu=4 mem=16 price=1 zones=a,b\npool p\n";
    check(
        &format!("{types}pod a cpu=1 reach=zone:a,b reach=zone:b"),
        "s b: a",
    );
    check(
        &format!("{types}pod a cpu=1 reach=zone:a reach=zone:b"),
        "left a*1: Volume",
    );
}

#[test]
fn an_overlay_changes_what_an_offering_holds() {
    let types = "type s cpu=4 mem=16 price=1 zones=a,b";
    check(&format!("{types} overlay=a:2\npool p\npod a cpu=3"), "s b: a");
    check(&format!("{types} overlay=a:8\npool p\npod a cpu=6"), "s a: a");
}

#[test]
fn buffers_take_what_is_left() {
    let buffer = "pod buffer x2 cpu=4 priority=-2147483648";
    let types = "type s cpu=4 mem=16 price=1\n";
    // Room of the user's machines first, then machines of their own.
    check(
        &format!("{types}pool p\nnode n cpu=4 mem=16\n{buffer}\npod a cpu=1"),
        "n: a | s a: buffer | s a: buffer",
    );
    // A limit that is not enough for both is the user's.
    check(
        &format!("{types}pool p limit=nodes:1\n{buffer}\npod a cpu=1"),
        "s a: a | left buffer*2: Limit",
    );
}

#[test]
fn reservations_count_as_cheap_and_their_limit_is_shared() {
    // Larger than needed, but paid for.
    check(
        "type l cpu=8 mem=32 price=2 reserved=1\ntype s cpu=4 mem=16 price=1\npool p\npod a x2 cpu=3",
        "l a reserved: a*2",
    );
}

#[test]
fn reasons_are_the_smallest_set_in_the_terms_of_the_pod() {
    let types = "type arm cpu=4 mem=16 price=1 arch=arm64 zones=a,b\ntype big cpu=16 mem=128 price=4 zones=a\npool p\n";
    explain(
        &format!("{types}pod a cpu=1 mem=64 need=zone:b need=ct:on-demand"),
        &[
            "no instance type of NodePool p with topology.kubernetes.io/zone In [b] holds memory 64Gi; the largest holds memory 16Gi",
        ],
    );
    // Only both together are too much: there are large types in zone b, and large ones with arm64 elsewhere.
    explain(
        "type arm cpu=16 mem=128 price=4 arch=arm64 zones=a\ntype big cpu=16 mem=128 price=4 zones=b\n\
         type small cpu=4 mem=16 price=1 arch=arm64 zones=b\npool p\n\
         pod a cpu=1 mem=64 need=arch:arm64 need=zone:b need=ct:on-demand",
        &[
            "no instance type of NodePool p with kubernetes.io/arch In [arm64] and topology.kubernetes.io/zone In [b] holds memory 64Gi; the largest holds memory 16Gi",
        ],
    );
    explain(
        &format!("{types}pod a cpu=32"),
        &["no instance type of NodePool p holds cpu 32; the largest holds cpu 16"],
    );
    explain(
        &format!("{types}pod a cpu=1 need=zone:b need=arch:amd64 need=ct:on-demand"),
        &[
            "NodePool p has nothing that satisfies topology.kubernetes.io/zone In [b] and kubernetes.io/arch In [amd64]",
        ],
    );
    explain(
        "type s cpu=4 mem=16 price=1\npool p limit=cpu:4\npod a x8 cpu=1",
        &["NodePool p limit cpu 4 is used up (4 in use)"],
    );
    explain(
        "type s cpu=4 mem=16 price=1 zones=a,b\npool p\npod a x3 cpu=1 spread=zone:1:3",
        &[
            "spread over topology.kubernetes.io/zone with maxSkew 1 (a has 1, b has 1) leaves no place in NodePool p",
        ],
    );
}

#[test]
fn the_runner_up_is_the_next_best_that_could_be_had() {
    let runner_up = |text: &str| {
        let (plan, _) = World::read(text).solve();
        let launch = &plan.launches[0];
        let other = launch.runner_up.as_ref().unwrap();
        let difference = other.price - launch.offering.price;
        (other.instance_type.to_string(), difference.dollars())
    };
    let types =
        "type l cpu=8 mem=32 price=3\ntype m cpu=4 mem=16 price=1.5\ntype s cpu=4 mem=16 price=1\npool p\n";
    assert_eq!(runner_up(&format!("{types}pod a cpu=4")), ("m".to_owned(), 0.5));
    // The reservation is used up by the plan itself, so it is no alternative.
    let (plan, _) = World::read(
        "type r cpu=4 mem=16 price=5 reserved=1\ntype s cpu=4 mem=16 price=1\npool p\npod a x2 cpu=4",
    )
    .solve();
    let bought = plan
        .launches
        .iter()
        .find(|l| &*l.offering.instance_type == "s")
        .unwrap();
    assert_eq!(
        bought.runner_up.as_ref().map(|o| &*o.capacity_type),
        Some("on-demand")
    );
}

#[test]
fn without_nomination_a_plan_has_room_for_how_pods_are_spread() {
    let text = "type s cpu=4 mem=16 price=1\npool p\npod a x4 cpu=1 mem=1\npod b cpu=4 mem=1";
    check(text, "s a: a*4 | s a: b");
    // Small pods come first and go to the emptiest machine, so the large one fits nowhere until each has its own.
    let padded = World::read(&format!("policy nomination=off\n{text}"));
    let (plan, report) = padded.solve();
    assert_eq!(
        padded.print(&plan, &report),
        "s a: a | s a: a | s a: a | s a: a | s a: b"
    );
    let padding = plan.padding.unwrap();
    assert_eq!((padding.price.dollars(), padding.unbound), (3.0, 0));
    assert!(World::read(text).solve().0.padding.is_none());
}

/// More pods than are solved exactly, so that what the heuristics do is looked at.
#[test]
fn many_pods_bind_too() {
    // A limit takes pods out of a zone that others counted on.
    let types = "type t cpu=4 mem=4 price=0.384 zones=a\ntype u cpu=2 mem=4 price=0.224 zones=a,b\n";
    let (placed, _) = sound(&format!(
        "{types}pool p limit=cpu:20\npod a x11 cpu=1.5 mem=0.5 spread=zone:1"
    ));
    assert!(placed >= 9, "{placed}");
    // Whoever could start a zone waits for those it wants to be near.
    let types = "type s cpu=4 mem=16 price=1 zones=a,b,c\npool p\n";
    assert_eq!(
        sound(&format!(
            "{types}pod b x6 cpu=1 need=zone:b app=x\npod a x12 cpu=2 app=x with=x@zone"
        )),
        (18, 18)
    );
    // A machine of one's own labels may or may not count: it depends on its type.
    let types = "type s cpu=4 mem=16 price=1 zones=a,b label=disk:ssd\ntype h cpu=4 mem=16 price=0.5 zones=a,b label=disk:hdd\npool p\n";
    assert_eq!(
        sound(&format!(
            "{types}pod a x6 cpu=1 app=x need=zone:a spread=zone:2\npod b x8 cpu=1 app=x need=disk:ssd spread=zone:1"
        )),
        (14, 14)
    );
    // Followers of followers, on machines that must be made larger for them.
    let types = "type s cpu=2 mem=16 price=1\ntype l cpu=8 mem=16 price=5\npool p\n";
    assert_eq!(
        sound(&format!(
            "{types}pod w x4 cpu=2 apart=w@host\npod a x4 cpu=1 with=w@host apart=a@host\npod c x4 cpu=1 with=a@host apart=c@host"
        )),
        (12, 12)
    );
}
