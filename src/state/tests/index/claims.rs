//! NodeClaims, whose own writes and watches may cross.

use super::*;

#[test]
fn a_created_claim_is_forgotten_only_when_the_api_server_does_not_have_it() {
    let mut index = Index::default();
    index.created_claim(claim("a", 5, json!({})), at(0));
    index.created_claim(claim("b", 6, json!({})), at(0));
    index.reset(Vec::<NodeClaim>::new(), at(1));
    assert_eq!(
        index.claims().count(),
        2,
        "the list may be older than the creation"
    );
    assert!(!index.overdue(at(120)));
    index.expire(at(121));
    assert!(index.overdue(at(121)));
    assert_eq!(index.claims().count(), 2, "silence of the watch proves nothing");

    index.counted(vec![claim("b", 6, json!({})), claim("c", 7, json!({}))], at(121));
    let names: Vec<_> = index.claims().map(|c| c.metadata.name.clone().unwrap()).collect();
    assert_eq!(names, ["b", "c"]);
    assert!(!index.overdue(at(122)), "it was just asked");
    assert!(index.overdue(at(242)), "no watch has said anything yet");
}

#[test]
fn a_list_asked_for_another_reason_takes_no_young_claim_away() {
    let mut index = Index::default();
    index.created_claim(claim("a", 5, json!({})), at(0));
    index.counted(Vec::new(), at(1));
    assert!(
        index.claim("a").is_some(),
        "it may have been created after the list was made"
    );
}

#[test]
fn a_claim_that_cannot_be_read_is_known_by_name_until_it_is_gone_or_mended() {
    let mut index = Index::default();
    let meta = |name: &str| claim(name, 1, json!({})).metadata;
    let unreadable =
        |index: &mut Index, name: &str| Observe::<NodeClaim>::unreadable(index, &meta(name), true);
    unreadable(&mut index, "a");
    unreadable(&mut index, "b");
    index.apply(claim("a", 2, json!({})), at(0));
    assert_eq!(index.unreadable_claims().iter().collect::<Vec<_>>(), ["b"]);
    unreadable(&mut index, "c");
    Observe::<NodeClaim>::unreadable(&mut index, &meta("c"), false);
    assert_eq!(index.unreadable_claims().iter().collect::<Vec<_>>(), ["b"]);
    index.reset(Vec::<NodeClaim>::new(), at(1));
    assert!(index.unreadable_claims().is_empty());
}

#[test]
fn a_node_whose_name_was_reused_belongs_to_its_new_claim_only() {
    let mut index = Index::default();
    with_machine(&mut index, "a");
    assert_eq!(index.nodes_of_provider_id("test://a").len(), 1);
    let successor = node(
        "a",
        json!({
            "metadata": { "uid": "another" },
            "spec": { "providerID": "test://b" },
        }),
    );
    index.reset(vec![successor], at(9));
    assert!(index.nodes_of_provider_id("test://a").is_empty());
    assert_eq!(index.nodes_of_provider_id("test://b").len(), 1);
}

#[test]
fn the_answer_to_our_own_write_does_not_stand_for_the_watch() {
    let mut index = Index::default();
    index.created_claim(claim("a", 5, json!({})), at(0));
    index.answered(
        claim("a", 6, json!({ "status": { "providerID": "test://a" } })),
        at(1),
    );
    index.reset(Vec::<NodeClaim>::new(), at(2));
    assert!(
        index.claim("a").is_some(),
        "the list may be older than the creation"
    );

    // What the watch says late still says that it exists, and takes nothing back.
    index.apply(claim("a", 5, json!({})), at(3));
    assert!(index.claim("a").unwrap().status.is_some());
    index.reset(Vec::<NodeClaim>::new(), at(4));
    assert!(
        index.claim("a").is_none(),
        "it was confirmed, so the list is newer"
    );
    index.answered(claim("a", 7, json!({})), at(5));
    assert!(index.claim("a").is_none());
}

#[test]
fn a_confirmed_claim_goes_with_the_list_that_lacks_it() {
    let mut index = Index::default();
    index.created_claim(claim("a", 5, json!({})), at(0));
    index.apply(claim("a", 5, json!({})), at(1));
    index.reset(Vec::<NodeClaim>::new(), at(2));
    assert!(index.claim("a").is_none());
}

#[test]
fn late_answers_bring_back_neither_old_versions_nor_the_dead() {
    let mut index = Index::default();
    index.apply(claim("a", 7, json!({ "status": { "nodeName": "new" } })), at(0));
    index.apply(claim("a", 6, json!({ "status": { "nodeName": "old" } })), at(0));
    assert_eq!(
        index
            .claim("a")
            .unwrap()
            .status
            .as_ref()
            .unwrap()
            .node_name
            .as_deref(),
        Some("new")
    );

    index.delete(&claim("a", 8, json!({})), at(1));
    index.apply(claim("a", 9, json!({})), at(1));
    index.created_claim(claim("a", 9, json!({})), at(1));
    assert!(index.claim("a").is_none());

    with_machine(&mut index, "b");
    index.delete(&node("b", json!({})), at(1));
    index.apply(
        node("b", json!({ "metadata": { "resourceVersion": "9" } })),
        at(2),
    );
    assert_eq!(index.nodes().count(), 0);
}
