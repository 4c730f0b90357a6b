//! Expiry, drain and termination, and what is garbage.

use super::*;

#[test]
fn an_expired_claim_goes_and_a_deleted_node_takes_its_claim_along() {
    let old = claim(IN_SERVICE, json!({ "spec": { "expireAfter": "1h" } }));
    let index_of = |claim, node| index(claim, [node], []);
    assert_eq!(
        names(&step(&index_of(old, open_node(json!({}))), at(3600)).effects),
        ["delete claim expired"]
    );
    let gone = open_node(json!({ "metadata": { "deletionTimestamp": at(0).to_string() } }));
    assert_eq!(
        names(&step(&index_of(claim(IN_SERVICE, json!({})), gone), at(1)).effects),
        ["delete claim node_deleted"]
    );
}

#[test]
fn a_leaving_machine_is_closed_before_its_pods_are_looked_at() {
    let effects = step(
        &index(deleted(json!({})), [open_node(json!({}))], [pod("p", json!({}))]),
        at(1),
    )
    .effects;
    assert_eq!(names(&effects), ["patch node labels taints"]);
}

#[test]
fn pods_leave_in_tiers_and_only_through_eviction() {
    let critical = json!({ "spec": { "priorityClassName": "system-cluster-critical" } });
    let daemon = json!({ "metadata": { "ownerReferences": [{ "apiVersion": "apps/v1", "kind": "DaemonSet", "name": "d", "uid": "d" }] } });
    let mut critical_daemon = critical.clone();
    merge(&mut critical_daemon, daemon.clone());
    let mut pods = vec![
        pod("plain", json!({})),
        pod("daemon", daemon),
        pod("critical", critical),
        pod("critical-daemon", critical_daemon),
    ];
    let tolerant = json!({ "spec": { "tolerations": [{ "operator": "Exists" }] } });
    let mut order = Vec::new();
    while !pods.is_empty() {
        let mut all = pods.clone();
        all.push(pod("tolerates-everything", tolerant.clone()));
        let index = index(deleted(json!({})), [leaving_node()], all);
        let evicted = names(&step(&index, at(1)).effects)
            .into_iter()
            .filter(|n| n.starts_with("evict"))
            .collect::<Vec<_>>();
        assert_eq!(evicted.len(), 1, "one tier at a time: {evicted:?}");
        let name = evicted[0].rsplit('/').next().unwrap().to_owned();
        pods.retain(|p| p.metadata.name.as_deref() != Some(&name));
        order.push(name);
    }
    assert_eq!(order, ["plain", "daemon", "critical", "critical-daemon"]);
}

#[test]
fn a_protected_pod_stalls_the_drain_until_the_deadline() {
    let protected = json!({ "metadata": { "annotations": { "karpenter.sh/do-not-disrupt": "true" } } });
    let drain = |patch: Value, now| {
        names(
            &step(
                &index(deleted(patch), [leaving_node()], [pod("p", protected.clone())]),
                at(now),
            )
            .effects,
        )
    };
    assert_eq!(drain(json!({}), 100_000), ["status"]);

    let bounded = json!({ "spec": { "terminationGracePeriod": "5m" } });
    assert_eq!(
        drain(bounded.clone(), 1),
        ["patch claim annotations"],
        "the deadline is written down first"
    );
    let mut dated = bounded;
    merge(
        &mut dated,
        json!({ "metadata": { "annotations": { "karpenter.sh/nodeclaim-termination-timestamp": at(300).to_string() } } }),
    );
    assert_eq!(drain(dated.clone(), 269), ["status"]);
    assert_eq!(
        drain(dated.clone(), 270),
        [
            "event TerminationGracePeriodExpiring",
            "delete default/p 30",
            "status"
        ]
    );
    assert_eq!(drain(dated, 400)[1], "delete default/p 1");
}

#[test]
fn pods_of_a_machine_with_a_known_end_stay_until_their_next_place_is_ready() {
    let evicted = |index: &Index, now| {
        let effects = names(&step(index, at(now)).effects);
        let evicted = effects.into_iter().filter(|n| n.starts_with("evict"));
        evicted.collect::<Vec<_>>()
    };
    let both = ["evict default/p", "evict default/q"];
    let nobody = Vec::<String>::new();
    let of = |claim| {
        let quick = json!({ "spec": { "terminationGracePeriodSeconds": 5 } });
        let daemon = json!({ "metadata": { "ownerReferences": [{ "apiVersion": "apps/v1", "kind": "DaemonSet", "name": "d", "uid": "d" }] } });
        let pods = [pod("p", json!({})), pod("q", quick), pod("d", daemon)];
        index(claim, [leaving_node()], pods)
    };
    assert_eq!(evicted(&of(deleted(json!({}))), 1), both, "no end is known");

    let annotated =
        |text: &str| deleted(json!({ "metadata": { "annotations": { "plimsoll.dev/ends-at": text } } }));
    let mut index = of(annotated(&at(120).to_string()));
    // A margin of 20 s, its own grace period, and 30 s for the tier of the daemon.
    assert_eq!(evicted(&index, 39), nobody);
    assert_eq!(evicted(&index, 40), ["evict default/p"]);
    assert_eq!(evicted(&index, 65), both);
    assert_eq!(evicted(&of(annotated("soon")), 1), both, "not a time");

    let next = json!({
        "metadata": { "name": "b", "uid": "uid-b" }, "status": { "providerID": "test://b", "nodeName": "node-b" },
    });
    index.apply(claim(LAUNCHED, next.clone()), at(1));
    index.promise(&"default/p".into(), "b", at(1));
    assert_eq!(evicted(&index, 2), nobody, "its next machine is not there yet");
    let mut ready = next;
    merge(&mut ready, json!({ "metadata": { "resourceVersion": "2" } }));
    index.apply(claim(IN_SERVICE, ready), at(3));
    let next_node = json!({
        "metadata": { "name": "node-b", "uid": "uid-node-b" }, "spec": { "providerID": "test://b" },
        "status": { "allocatable": { "pods": "10" } },
    });
    index.apply(open_node(next_node), at(3));
    assert_eq!(evicted(&index, 4), ["evict default/p"]);
    index.expire(at(39));
    assert_eq!(
        evicted(&index, 39),
        ["evict default/p"],
        "its place is kept as long as it runs here"
    );

    // The user's own deadline comes first.
    let mut bounded = of(annotated(&at(120).to_string()));
    let dated = json!({ "metadata": { "resourceVersion": "3", "annotations": {
        "plimsoll.dev/ends-at": at(120).to_string(), "karpenter.sh/nodeclaim-termination-timestamp": at(90).to_string(),
    } } });
    bounded.apply(deleted(dated), at(1));
    assert_eq!(evicted(&bounded, 9), nobody);
    assert_eq!(evicted(&bounded, 10), ["evict default/p"]);

    // Agents of the machine stay as long as someone does.
    let critical = json!({ "spec": { "priorityClassName": "system-cluster-critical" } });
    let mut guarded = of(annotated(&at(120).to_string()));
    for name in ["p", "q"] {
        guarded.delete(&pod(name, json!({})), at(1));
    }
    guarded.apply(pod("dns", critical), at(1));
    assert_eq!(evicted(&guarded, 2), nobody);
    // They go before a critical pod that cannot stay any longer, so it is time for them, too.
    assert_eq!(evicted(&guarded, 39), nobody);
    assert_eq!(evicted(&guarded, 40), ["evict default/d"]);
}

#[test]
fn only_the_api_server_can_say_that_a_node_is_drained() {
    let index = index(deleted(json!({})), [leaving_node()], []);
    assert_eq!(
        names(&step(&index, at(4)).effects),
        ["status"],
        "a pod bound at the last moment must show up first"
    );
    assert_eq!(names(&step(&index, at(6)).effects), ["confirm drained"]);

    let decide = |pods: &[Pod]| {
        drained(
            &view(&index),
            pods.iter().map(PodState::from_pod).collect(),
            at(6),
        )
    };
    let unseen = decide(&[pod("unseen", json!({}))]);
    assert_eq!(names(&unseen), ["evict default/unseen", "status"]);
    assert_eq!(written(&unseen, conditions::DRAINED), is("Unknown", "Draining"));
    let nobody = decide(&[]);
    assert_eq!(names(&nobody), ["status"]);
    assert_eq!(written(&nobody, conditions::DRAINED), is("True", "Drained"));
}

#[test]
fn a_drained_machine_is_terminated_after_its_volumes_have_gone() {
    let drained = claim(
        &["Launched", "Registered", "Initialized", "Drained"],
        json!({ "metadata": { "deletionTimestamp": at(0).to_string() } }),
    );
    let mut index = index(drained, [leaving_node()], []);
    let attachment: VolumeAttachment = object(json!({
        "metadata": { "name": "va" },
        "spec": { "attacher": "csi", "nodeName": "node-a", "source": { "persistentVolumeName": "pv" } },
    }));
    index.apply(attachment.clone(), at(0));
    let effects = step(&index, at(6)).effects;
    assert_eq!(names(&effects), ["status"]);
    assert_eq!(
        written(&effects, "VolumesDetached"),
        is("Unknown", "AwaitingVolumeDetachment")
    );
    index.delete(&attachment, at(7));
    assert_eq!(
        names(&step(&index, at(8)).effects),
        ["status", "terminate test://a"]
    );
}

#[test]
fn a_claim_that_never_got_a_node_is_terminated_by_whatever_was_launched_for_it() {
    let unlaunched = claim(
        &[],
        json!({ "metadata": { "deletionTimestamp": at(0).to_string() } }),
    );
    assert_eq!(
        names(&step(&index(unlaunched, [], []), at(1)).effects)
            .last()
            .unwrap(),
        "terminate ?"
    );
}

#[test]
fn finalizers_go_only_when_the_machine_is_gone() {
    let index = index(
        deleted(json!({ "metadata": { "finalizers": ["karpenter.sh/termination", "other"] } })),
        [leaving_node()],
        [],
    );
    let started = terminated(&view(&index), Termination::Started, at(1));
    assert_eq!(names(&started), ["status"]);
    assert_eq!(
        written(&started, conditions::INSTANCE_TERMINATING),
        is("True", "InstanceTerminating")
    );
    let gone = terminated(&view(&index), Termination::Gone, at(1));
    assert_eq!(names(&gone), ["patch node finalizers ", "patch claim finalizers"]);
    let Effect::PatchClaim { patch, .. } = &gone[1] else {
        panic!()
    };
    assert_eq!(patch["metadata"]["finalizers"], json!(["other"]));
}

#[test]
fn a_removal_is_dropped_when_the_machine_is_not_what_the_plan_saw() {
    let close = |index: &Index| disruption::close(&view(index)).is_some();
    assert!(close(&index(
        claim(IN_SERVICE, json!({})),
        [open_node(json!({}))],
        []
    )));
    assert!(
        !close(&index(deleted(json!({})), [open_node(json!({}))], [])),
        "already leaving"
    );
    let impostor = open_node(json!({ "metadata": { "name": "another" } }));
    assert!(
        !close(&index(claim(IN_SERVICE, json!({})), [impostor], [])),
        "name and provider id disagree"
    );
    let mut promised = index(
        claim(IN_SERVICE, json!({})),
        [open_node(json!({}))],
        [pending("p")],
    );
    promised.promise(&"default/p".into(), "a", at(0));
    assert!(!close(&promised), "a pod was promised a place there");
}

#[test]
fn what_the_api_server_says_after_closing_decides() {
    let (claim, node) = (claim(IN_SERVICE, json!({})), leaving_node());
    let decide = |pods: &[Pod]| {
        let pods: Vec<PodState> = pods.iter().map(PodState::from_pod).collect();
        names(&disruption::confirm_empty(&claim, &node, &pods))
    };
    assert_eq!(decide(&[]), ["event DisruptionTerminating", "delete claim empty"]);
    assert_eq!(
        decide(&[pod("p", json!({}))]),
        ["event DisruptionBlocked", "patch node  taints"]
    );
    let daemon = json!({ "metadata": { "ownerReferences": [{ "apiVersion": "apps/v1", "kind": "DaemonSet", "name": "d", "uid": "d" }] } });
    assert_eq!(
        decide(&[pod("d", daemon)]),
        ["event DisruptionTerminating", "delete claim empty"]
    );
}

#[test]
fn garbage_is_what_has_lost_its_other_half() {
    let machine = |claim: &str, provider_id: &str, launched| Machine {
        provider_id: provider_id.into(),
        image_id: None,
        annotations: std::collections::BTreeMap::new(),
        labels: Default::default(),
        capacity: Default::default(),
        allocatable: Default::default(),
        claim: claim.into(),
        launched,
    };
    let unready = open_node(json!({ "status": { "conditions": [] } }));
    let all = index(claim(IN_SERVICE, json!({})), [unready], []);
    let found = garbage::collect(
        &all,
        &vec![machine("a", "test://a", at(0)), machine("x", "test://x", at(0))].into(),
        at(60),
    );
    assert_eq!(
        (found.leaked, found.effects),
        (vec!["test://x".to_owned()], vec![])
    );
    let second = vec![
        machine("a", "test://a", at(0)),
        machine("a", "test://other", at(0)),
    ];
    assert_eq!(
        garbage::collect(&all, &second.into(), at(60)).leaked,
        ["test://other"],
        "a claim stands for the machine it has recorded and for no other of its name"
    );
    let mut newer = index(claim(IN_SERVICE, json!({})), [], []);
    let x = claim(IN_SERVICE, json!({ "metadata": { "name": "x" } })).metadata;
    Observe::<NodeClaim>::unreadable(&mut newer, &x, true);
    let unread = garbage::collect(
        &newer,
        &vec![machine("a", "test://a", at(0)), machine("x", "test://x", at(0))].into(),
        at(60),
    );
    assert_eq!(
        unread,
        garbage::Found::default(),
        "its claim exists, it cannot be read"
    );
    let young = garbage::collect(
        &all,
        &vec![machine("a", "test://a", at(0)), machine("x", "test://x", at(31))].into(),
        at(60),
    );
    assert_eq!(
        young.leaked,
        Vec::<String>::new(),
        "its claim may still be on its way"
    );
    assert_eq!(
        names(&garbage::collect(&all, &Listing::default(), at(60)).effects),
        ["delete claim garbage_collected"]
    );
    let unseen = Listing {
        unseen: ["a".to_owned()].into(),
        ..Listing::default()
    };
    assert_eq!(
        garbage::collect(&all, &unseen, at(60)).effects,
        [],
        "nobody could be asked for its machine"
    );

    let well = index(claim(IN_SERVICE, json!({})), [open_node(json!({}))], []);
    assert_eq!(
        garbage::collect(&well, &Listing::default(), at(60)).effects,
        [],
        "a ready node contradicts the list"
    );
}

#[test]
fn a_deleted_node_without_a_claim_stays_as_long_as_nobody_can_be_asked_for_its_machine() {
    let class = |name: &&str| NodeClassReference {
        group: "karpenter.kwok.sh".into(),
        kind: "KWOKNodeClass".into(),
        name: (*name).into(),
    };
    for (of, silent, released) in [
        (Some("one"), &[][..], true),
        (Some("one"), &["two"], true),
        (Some("one"), &["two", "one"], false),
        (None, &["two"], false),
        (None, &[], true),
    ] {
        let mut orphan = json!({
            "metadata": { "name": "orphan", "deletionTimestamp": at(0).to_string(), "ownerReferences": null },
            "spec": { "providerID": "test://orphan" },
        });
        if let Some(class) = of {
            orphan["metadata"]["labels"] = json!({ "karpenter.kwok.sh/kwoknodeclass": class });
        }
        let orphan = open_node(orphan);
        let listing = Listing {
            unseen_classes: silent.iter().map(class).collect(),
            ..Listing::default()
        };
        let found = garbage::collect(&index(claim(&[], json!({})), [orphan], []), &listing, at(60));
        assert_eq!(!found.effects.is_empty(), released, "{of:?} {silent:?} {found:?}");
    }
}
