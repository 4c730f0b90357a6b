//! From order to service.

use super::*;

#[test]
fn a_claim_without_our_finalizer_gets_it_before_anything_is_bought() {
    let bare = claim(&[], json!({ "metadata": { "finalizers": ["someone/else"] } }));
    assert_eq!(
        names(&step(&index(bare, [], []), at(0)).effects),
        ["patch claim finalizers"]
    );
}

#[test]
fn a_new_claim_is_launched_and_given_up_after_five_minutes() {
    let new = index(claim(&[], json!({})), [], []);
    let pass = step(&new, at(1));
    assert_eq!(names(&pass.effects), ["status", "launch"]);
    assert_eq!(
        written(&pass.effects, "Launched"),
        is("Unknown", "AwaitingReconciliation")
    );
    assert_eq!(names(&step(&new, at(299)).effects), ["status", "launch"]);
    assert_eq!(
        names(&step(&new, at(300)).effects),
        ["status", "delete claim launch_timeout"]
    );
}

#[test]
fn the_clouds_answer_decides_what_becomes_of_the_claim() {
    let claim = claim(&[], json!({}));
    let machine = Machine {
        provider_id: "test://a".into(),
        image_id: None,
        annotations: [("class-hash".into(), "1".into())].into(),
        labels: [
            ("zone".into(), "b".into()),
            ("karpenter.sh/nodepool".into(), "other".into()),
        ]
        .into(),
        capacity: Default::default(),
        allocatable: Default::default(),
        claim: "a".into(),
        launched: at(0),
    };
    let effects = launched(&claim, &Ok(machine), at(0));
    assert_eq!(names(&effects), ["patch claim annotations,labels", "status"]);
    assert_eq!(written(&effects, "Launched"), is("True", "Launched"));
    let Effect::PatchClaim { patch, .. } = &effects[0] else {
        panic!()
    };
    assert_eq!(patch["metadata"]["annotations"], json!({ "class-hash": "1" }));
    assert_eq!(
        patch["metadata"]["labels"],
        json!({ "zone": "b" }),
        "the claim's own labels win"
    );

    let effects = launched(
        &claim,
        &Err(ProviderError::InsufficientCapacity("none".into())),
        at(0),
    );
    assert_eq!(
        names(&effects),
        [
            "event InsufficientCapacityError",
            "delete claim insufficient_capacity"
        ]
    );

    let effects = launched(&claim, &Err(ProviderError::Throttled("slow".into())), at(0));
    assert_eq!(
        written(&effects, "Launched"),
        is("Unknown", "RequestLimitExceeded")
    );
}

#[test]
fn registration_wants_exactly_one_node_that_joined_closed() {
    let registered = |index: &Index| written(&step(index, at(1)).effects, "Registered");
    assert_eq!(
        registered(&index(claim(LAUNCHED, json!({})), [], [])),
        is("Unknown", "NodeNotFound")
    );

    let twin = node(json!({ "metadata": { "name": "twin", "uid": "twin" } }));
    let two = index(claim(LAUNCHED, json!({})), [node(json!({})), twin], []);
    assert_eq!(registered(&two), is("False", "MultipleNodesFound"));

    let joined_open = index(
        claim(LAUNCHED, json!({})),
        [node(json!({ "spec": { "taints": [] } }))],
        [],
    );
    let pass = step(&joined_open, at(1));
    assert_eq!(names(&pass.effects), ["event UnregisteredTaintMissing", "status"]);

    let nothing = index(claim(LAUNCHED, json!({})), [], []);
    assert_eq!(
        names(&step(&nothing, at(900)).effects),
        ["status", "delete claim registration_timeout"]
    );
}

#[test]
fn a_node_opens_once_it_is_ready_and_its_pods_are_nominated() {
    let closed =
        |ready: &str| node(json!({ "status": { "conditions": [{ "type": "Ready", "status": ready }] } }));
    let with_promise = |node: Node| {
        let mut index = index(claim(LAUNCHED, json!({})), [node], [pending("p")]);
        index.promise(&"default/p".into(), "a", at(0));
        index
    };
    let waiting = with_promise(closed("False"));
    let pass = step(&waiting, at(1));
    assert_eq!(
        names(&pass.effects),
        [
            "patch node annotations,finalizers,labels,ownerReferences ",
            "status"
        ]
        .map(|s| s.replace("annotations,", ""))
    );
    assert_eq!(
        written(&pass.effects, "Registered"),
        is("Unknown", "AwaitingNodeReadiness")
    );
    assert_eq!(
        pass.again.map(|d| d.as_secs()),
        Some(14),
        "it is not kept closed for ever"
    );

    let behind = with_promise(closed("True"));
    let effects = step(&behind, at(1)).effects;
    assert_eq!(
        names(&effects),
        ["patch node finalizers,labels,ownerReferences ", "status"],
        "in step with its claim first"
    );

    let in_step = |ready: &str| {
        let taints = json!([{ "key": "other", "effect": "NoSchedule" }, { "key": "karpenter.sh/unregistered", "effect": "NoExecute" }]);
        open_node(json!({
            "metadata": { "labels": { "karpenter.sh/registered": "", "karpenter.sh/initialized": "" } },
            "spec": { "taints": taints },
            "status": { "conditions": [{ "type": "Ready", "status": ready, "lastTransitionTime": at(0).to_string() }] },
        }))
    };
    let effects = step(&with_promise(in_step("True")), at(1)).effects;
    assert_eq!(
        names(&effects)[..3],
        [
            "stop evicting, taint 1",
            "nominate default/p",
            "open node, taint 1"
        ],
        "opened after the nomination"
    );
    let not_yet = step(&with_promise(in_step("False")), at(1)).effects;
    assert_eq!(
        names(&not_yet),
        ["status"],
        "not sooner: Karpenter could not open it"
    );
    let harmless = |mut node: Node| {
        node.spec.as_mut().unwrap().taints.as_mut().unwrap()[1].effect = "NoSchedule".into();
        with_promise(node)
    };
    assert_eq!(
        names(&step(&harmless(in_step("True")), at(1)).effects)[..2],
        ["nominate default/p", "open node, taint 1"],
        "once is enough"
    );
    assert_eq!(written(&effects, "Registered"), is("True", "Registered"));

    let late = step(&with_promise(in_step("False")), at(15)).effects;
    assert_eq!(
        names(&late)[..3],
        [
            "stop evicting, taint 1",
            "nominate default/p",
            "open node, taint 1"
        ],
        "the window is over: opened although not ready"
    );
}

#[test]
fn machines_of_one_plan_wait_for_each_other_for_a_while() {
    let planned = json!({ "metadata": { "annotations": { "plimsoll.dev/plan": "7" } } });
    let mut second =
        json!({ "metadata": { "name": "b", "uid": "uid-b" }, "status": { "providerID": "test://b" } });
    merge(&mut second, planned.clone());
    let ready = |since: i64| json!({ "type": "Ready", "status": "True", "lastTransitionTime": at(since).to_string() });
    let own = open_node(json!({
        "metadata": { "labels": { "karpenter.sh/registered": "" }, "annotations": { "plimsoll.dev/plan": "7" } },
        "spec": { "taints": [{ "key": "karpenter.sh/unregistered", "effect": "NoExecute" }] },
        "status": { "conditions": [ready(4)] },
    }));
    let mut index = index(claim(LAUNCHED, planned), [own], [pending("p")]);
    index.promise(&"default/p".into(), "a", at(0));
    let opens = |index: &Index, now: i64| {
        let pass = step(index, at(now));
        let opens = names(&pass.effects)
            .iter()
            .any(|name| name.starts_with("open node"));
        (opens, pass.again.map(|d| d.as_secs()))
    };
    assert_eq!(opens(&index, 5), (true, None), "it is alone");

    index.ordering(Some("7"));
    assert_eq!(opens(&index, 5), (false, Some(4)), "more are being ordered");
    index.ordering(None);
    index.apply(claim(LAUNCHED, second), at(5));
    assert_eq!(opens(&index, 5), (false, Some(4)), "the other has no node yet");
    assert_eq!(opens(&index, 9), (true, None), "and none came for too long");

    let other = |status: Value| {
        let patch = json!({
            "metadata": { "name": "node-b", "uid": "uid-node-b", "resourceVersion": "2" },
            "spec": { "providerID": "test://b" }, "status": { "conditions": [status] },
        });
        node(patch)
    };
    index.take_touched();
    index.apply(other(json!({ "type": "Ready", "status": "False" })), at(5));
    assert!(!index.take_touched().claims.contains("a"));
    index.apply(other(ready(6)), at(6));
    assert!(
        index.take_touched().claims.contains("a"),
        "the last one wakes the others"
    );
    assert_eq!(opens(&index, 6), (true, None));
}

#[test]
fn registration_brings_the_claims_taints_and_keeps_foreign_ones() {
    let tainted = claim(
        LAUNCHED,
        json!({ "spec": {
        "taints": [{ "key": "team", "value": "a", "effect": "NoSchedule" }],
        "startupTaints": [{ "key": "cni", "effect": "NoSchedule" }],
    } }),
    );
    let foreign = node(json!({ "spec": { "taints": [
        { "key": "karpenter.sh/unregistered", "effect": "NoExecute" }, { "key": "other", "effect": "NoSchedule" },
    ] } }));
    let effects = step(&index(tainted, [foreign], []), at(1)).effects;
    let Effect::PatchNode { patch, .. } = &effects[0] else {
        panic!("{effects:?}")
    };
    let keys: Vec<_> = patch["spec"]["taints"]
        .as_array()
        .unwrap()
        .iter()
        .map(|t| t["key"].as_str().unwrap())
        .collect();
    assert_eq!(keys, ["karpenter.sh/unregistered", "other", "team", "cni"]);
    assert_eq!(
        patch["metadata"]["resourceVersion"], "1",
        "a list is never replaced blindly"
    );
}

#[test]
fn initialization_names_what_it_waits_for() {
    let registered = &["Launched", "Registered"][..];
    let check = |claim_patch: Value, node_patch: Value, reason: &str| {
        let index = index(claim(registered, claim_patch), [open_node(node_patch)], []);
        assert_eq!(
            written(&step(&index, at(1)).effects, "Initialized"),
            is("Unknown", reason)
        );
    };
    check(
        json!({}),
        json!({ "status": { "conditions": [] } }),
        "NodeNotReady",
    );
    let startup = json!({ "spec": { "startupTaints": [{ "key": "cni", "effect": "NoSchedule" }] } });
    check(
        startup,
        json!({ "spec": { "taints": [{ "key": "cni", "effect": "NoSchedule" }] } }),
        "StartupTaintsExist",
    );
    let not_ready =
        json!({ "spec": { "taints": [{ "key": "node.kubernetes.io/not-ready", "effect": "NoSchedule" }] } });
    check(json!({}), not_ready, "KnownEphemeralTaintsExist");
    check(
        json!({}),
        json!({ "status": { "allocatable": { "example.com/gpu": "0" } } }),
        "ResourceNotRegistered",
    );

    let node = open_node(json!({ "metadata": { "labels": { "karpenter.sh/initialized": "" } } }));
    let effects = step(&index(claim(registered, json!({})), [node], []), at(1)).effects;
    assert_eq!(names(&effects), ["patch node labels ", "status"]);
    assert_eq!(written(&effects, "Initialized"), is("True", "Initialized"));
}

#[test]
fn a_cleared_nomination_is_renewed_while_the_promise_stands() {
    let looks_again = |reached: &[&str], status: Value| {
        let mut index = index(
            claim(reached, json!({})),
            [open_node(json!({ "status": status }))],
            [pending("p")],
        );
        index.promise(&"default/p".into(), "a", at(0));
        step(&index, at(1))
            .effects
            .into_iter()
            .find_map(|effect| match effect {
                Effect::Nominate { look_again, .. } => Some(look_again),
                _ => None,
            })
    };
    assert_eq!(
        looks_again(&["Launched", "Registered"], json!({ "conditions": [] })),
        Some(false),
        "what keeps pods away will go, and that is an event"
    );
    assert_eq!(
        looks_again(IN_SERVICE, json!({})),
        Some(true),
        "nothing else would make kube-scheduler try again"
    );
}
