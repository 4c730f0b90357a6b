use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + second).unwrap()
}

fn pod(name: &str, ready: bool) -> Value {
    let status = if ready { "True" } else { "False" };
    json!({
        "metadata": { "namespace": "default", "name": name, "labels": { "app": "web" } },
        "spec": { "nodeName": "n1", "terminationGracePeriodSeconds": 7 },
        "status": { "phase": "Running", "conditions": [{ "type": "Ready", "status": status }] },
    })
}

fn uid(object: &Value) -> &str {
    text(object, "/metadata/uid").unwrap()
}

#[test]
fn a_patch_under_an_old_version_is_refused_and_a_patch_of_nothing_makes_no_version() {
    let mut server = Server::default();
    let node = json!({ "metadata": { "name": "n1" }, "spec": { "taints": [1, 2] } });
    let first = server.create(Kind::Node, node, at(0)).unwrap();
    let version = first["metadata"]["resourceVersion"].clone();
    let patch =
        |taints: Value| json!({ "metadata": { "resourceVersion": version }, "spec": { "taints": taints } });

    let same = server
        .patch(Kind::Node, "n1", &patch(json!([1, 2])), Part::Main)
        .unwrap();
    assert_eq!(same["metadata"]["resourceVersion"], version);
    let changed = server
        .patch(Kind::Node, "n1", &patch(json!([1])), Part::Main)
        .unwrap();
    assert_ne!(changed["metadata"]["resourceVersion"], version);
    assert_eq!(changed["metadata"]["generation"], 2);
    let error = server
        .patch(Kind::Node, "n1", &patch(json!([])), Part::Main)
        .unwrap_err();
    assert!(matches!(error, ApiError::Conflict(_)), "{error}");
}

#[test]
fn each_half_of_an_object_is_patched_by_its_own_call() {
    let mut server = Server::default();
    let claim = json!({ "metadata": { "generateName": "pool-" }, "spec": { "a": 1 }, "status": { "b": 1 } });
    let claim = server.create(Kind::NodeClaim, claim, at(0)).unwrap();
    let key = key(&claim);
    assert!(key.starts_with("pool-") && key.len() > 5, "{key}");
    assert_eq!(claim.get("status"), None, "a create call carries no status");

    let both = json!({ "metadata": { "labels": { "x": "y" } }, "status": { "c": 2 } });
    let main = server.patch(Kind::NodeClaim, &key, &both, Part::Main).unwrap();
    assert_eq!(
        (&main["metadata"]["labels"]["x"], main.get("status")),
        (&json!("y"), None)
    );
    let other = json!({ "metadata": { "labels": { "x": "z" } }, "status": { "c": 2 } });
    let status = server.patch(Kind::NodeClaim, &key, &other, Part::Status).unwrap();
    assert_eq!(
        (&status["metadata"]["labels"]["x"], &status["status"]["c"]),
        (&json!("y"), &json!(2))
    );
    assert_eq!(status["metadata"]["generation"], 1);
    let error = server
        .patch(Kind::NodeClaim, &key, &json!({ "spec": { "a": 2 } }), Part::Main)
        .unwrap_err();
    assert!(matches!(error, ApiError::Invalid(_)), "{error}");
}

#[test]
fn an_object_with_a_finalizer_stays_until_it_is_taken_off() {
    let mut server = Server::default();
    let claim = json!({ "metadata": { "name": "c", "finalizers": ["f"] } });
    let made = server.create(Kind::NodeClaim, claim, at(0)).unwrap();
    server
        .delete(Kind::NodeClaim, "c", Some(uid(&made)), None, at(1))
        .unwrap();
    let leaving = server.get(Kind::NodeClaim, "c").unwrap();
    assert_eq!(leaving["metadata"]["deletionTimestamp"], stamp(at(1)));
    server.delete(Kind::NodeClaim, "c", None, None, at(9)).unwrap();
    assert_eq!(
        server.get(Kind::NodeClaim, "c").unwrap()["metadata"]["deletionTimestamp"],
        stamp(at(1))
    );
    server.take_changes();
    server
        .patch(
            Kind::NodeClaim,
            "c",
            &json!({ "metadata": { "finalizers": [] } }),
            Part::Main,
        )
        .unwrap();
    assert!(server.get(Kind::NodeClaim, "c").is_none());
    assert!(server.take_changes().iter().any(|change| change.deleted));
    let again = server.delete(Kind::NodeClaim, "c", None, None, at(9));
    assert!(matches!(again, Err(ApiError::NotFound(..))));
}

#[test]
fn a_pod_on_a_node_leaves_within_its_grace_period_and_can_only_be_hurried() {
    let mut server = Server::default();
    let made = server.create(Kind::Pod, pod("a", true), at(0)).unwrap();
    let deletion = |server: &Server| {
        server.get(Kind::Pod, "default/a").unwrap()["metadata"]["deletionTimestamp"].clone()
    };
    server
        .delete(Kind::Pod, "default/a", Some(uid(&made)), None, at(10))
        .unwrap();
    assert_eq!(deletion(&server), stamp(at(17)));
    server
        .delete(
            Kind::Pod,
            "default/a",
            None,
            Some(SignedDuration::from_secs(60)),
            at(10),
        )
        .unwrap();
    assert_eq!(deletion(&server), stamp(at(17)));
    server
        .delete(
            Kind::Pod,
            "default/a",
            None,
            Some(SignedDuration::from_secs(2)),
            at(11),
        )
        .unwrap();
    assert_eq!(deletion(&server), stamp(at(13)));
    let wrong = server.delete(Kind::Pod, "default/a", Some("other"), None, at(11));
    assert!(matches!(wrong, Err(ApiError::Conflict(_))));
    server.remove_pod("default/a", "other");
    assert!(server.get(Kind::Pod, "default/a").is_some());
    server.remove_pod("default/a", uid(&made));
    assert!(server.get(Kind::Pod, "default/a").is_none());
}

#[test]
fn eviction_stops_where_the_budget_does() {
    let mut server = Server::default();
    let budget = json!({
        "metadata": { "namespace": "default", "name": "web" },
        "spec": { "minAvailable": 2, "selector": { "matchLabels": { "app": "web" } } },
    });
    server.create(Kind::PodDisruptionBudget, budget, at(0)).unwrap();
    let uids: Vec<String> = ["a", "b", "c"]
        .iter()
        .map(|name| uid(&server.create(Kind::Pod, pod(name, true), at(0)).unwrap()).to_owned())
        .collect();
    let sick = uid(&server.create(Kind::Pod, pod("sick", false), at(0)).unwrap()).to_owned();
    server.sync_budgets();
    let allowed = |server: &Server| {
        server.get(Kind::PodDisruptionBudget, "default/web").unwrap()["status"]["disruptionsAllowed"].clone()
    };
    assert_eq!(allowed(&server), 1);
    server.evict("default/sick", &sick, at(1)).unwrap();
    server.evict("default/a", &uids[0], at(1)).unwrap();
    assert_eq!(allowed(&server), 0);
    assert_eq!(
        server.evict("default/b", &uids[1], at(1)),
        Err(ApiError::Budget("default/web".into()))
    );
    // Evicting it again changes nothing and costs nothing.
    server.evict("default/a", &uids[0], at(2)).unwrap();
    assert_eq!(
        server.evict("default/b", "other", at(1)),
        Err(ApiError::Conflict("pod default/b has another uid".into()))
    );
}

#[test]
fn a_pod_is_bound_once() {
    let mut server = Server::default();
    let mut waiting = pod("a", false);
    waiting["spec"].as_object_mut().unwrap().remove("nodeName");
    let made = server.create(Kind::Pod, waiting, at(0)).unwrap();
    server.bind("default/a", uid(&made), "n1").unwrap();
    assert_eq!(
        condition(server.get(Kind::Pod, "default/a").unwrap(), "PodScheduled"),
        Some("True")
    );
    assert!(server.bind("default/a", uid(&made), "n2").is_err());
}
