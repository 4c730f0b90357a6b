//! The forms a report comes in, the script and the object among them.

use super::*;

#[test]
fn every_form_of_the_report_shows_the_same_money() {
    let mut items = half_empty();
    merge(&mut items[1], json!({ "metadata": { "namespace": "<b>&" } }));
    let dump = read(&items);
    let report = report_of_dump(&dump);
    let now = plimsoll_report::money::dollars(report.now.per_month);
    assert!(text(&report, Colour::Never).contains(&now));
    assert!(
        !text(&report, Colour::Never).contains('\u{1b}') && text(&report, Colour::Ansi).contains('\u{1b}')
    );
    let page = html(&report);
    assert!(page.contains(&now) && page.contains("&lt;b&gt;&amp;") && !page.contains("<b>&"));
    for outside in ["http://", "https://", "<script", "<link", "url("] {
        assert!(
            !page.contains(outside),
            "{outside} in a file that must stand alone"
        );
    }
    assert_eq!(csv(&report, CsvTable::Nodes).lines().count(), 7);
    let script = commands(&report, &dump.index, None);
    for node in &report.nodes {
        let drained = script.contains(&format!("\nempty {}\n", node.name));
        assert_eq!(drained, node.action == Action::Remove, "{}", node.name);
    }
}

#[test]
fn the_script_sends_each_pod_that_moves_to_its_machine_once() {
    let dump = read(&of_a_node_pool());
    let report = report_of_dump(&dump);
    assert!(report.new_machines.iter().all(|m| m.of_node_pool));
    let script = commands(&report, &dump.index, None);
    let sent: Vec<&str> = script
        .lines()
        .filter(|line| line.starts_with("fill "))
        .flat_map(|line| line.rsplit('"').next().unwrap().split_whitespace())
        .collect();
    let goes = |node: &str| {
        report
            .nodes
            .iter()
            .any(|n| n.name == node && n.action == Action::Remove)
    };
    let mut moves: Vec<String> = (0..6)
        .filter(|i| goes(&format!("n{i}")))
        .map(|i| format!("shop/web-{i}"))
        .collect();
    let mut sorted: Vec<String> = sent.iter().map(ToString::to_string).collect();
    sorted.sort();
    moves.sort();
    assert!(!moves.is_empty() && sorted == moves, "{sorted:?} and {moves:?}");
    let bought = script.matches("kubectl apply --server-side -f -").count();
    assert_eq!(bought as u32, report.reachable.nodes_bought);
    // Noted before it is closed, so that an interruption finds it.
    let closed = script
        .matches("closed=\"$closed $node\"; close \"$node\"")
        .count();
    assert_eq!(closed, script.matches("\nfill \"").count());

    // What nobody inside the cluster can buy has no name to send pods to.
    let groups = read(&half_empty());
    let by_hand = commands(&report_of_dump(&groups), &groups.index, None);
    assert!(by_hand.contains("# add ") && by_hand.contains("\nempty n"));
    assert!(!by_hand.contains("\nfill "), "{by_hand}");
}

#[test]
fn a_script_for_a_context_sends_all_commands_there() {
    let dump = read(&half_empty());
    let script = commands(&report_of_dump(&dump), &dump.index, Some("Bob's $HOME"));
    let start = script.find("kubectl() {").unwrap();
    let end = start + script[start..].find("\n}\n").unwrap() + 3;
    assert!(!script[..start].contains("\nkubectl "), "{script}");
    // A shell that says what it would run.
    let says = format!(
        "command() {{ printf '%s|' \"$@\"\n}}\n{}kubectl get nodes",
        &script[start..end]
    );
    let output = std::process::Command::new("sh")
        .args(["-c", &says])
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        "kubectl|--context|Bob's $HOME|get|nodes|"
    );
}

#[test]
fn pods_that_are_even_over_zones_stay_in_theirs() {
    let spread = json!({ "spec": { "topologySpreadConstraints": [{ "maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone",
        "whenUnsatisfiable": "DoNotSchedule", "labelSelector": { "matchLabels": { "app": "web" } } }] } });
    let zone_of = |i: usize| ["us-east-1a", "us-east-1b", "us-east-1c"][i % 3];
    let mut items = Vec::new();
    for i in 0..18 {
        let name = format!("n{i}");
        items.push(node(&name, "m5.xlarge", zone_of(i), json!({})));
        items.push(pod(&format!("web-{i}"), "web", &name, spread.clone()));
    }
    let report = report_of(&items);
    let kept = report.nodes.iter().map(|n| (&n.zone, &n.takes));
    let new = report.new_machines.iter().map(|m| (&m.zone, &m.takes));
    let mut moved = 0;
    for (zone, pods) in kept.chain(new) {
        for pod in pods {
            let number: usize = pod.strip_prefix("shop/web-").unwrap().parse().unwrap();
            assert_eq!(zone, zone_of(number), "{pod}");
            moved += 1;
        }
    }
    assert!(moved > 5 && moved == report.reachable.pods_moved, "{moved}");
}

#[test]
fn a_report_in_the_cluster_is_small_whatever_the_cluster_and_says_what_it_left_out() {
    let mut report = report_of(&half_empty());
    let whole = report_status(&report, None, Duration::from_secs(600));
    assert_eq!(whole.omitted, 0);
    assert_eq!(whole.now.per_hour, "1.1520");
    assert_eq!(whole.nodes, 6);
    let removed: i32 = whole.remove.iter().map(|group| group.count).sum();
    assert_eq!(removed as u32, report.reachable.nodes_removed);

    let long = "\u{e9}".repeat(2000);
    let mut node = report.nodes[0].clone();
    node.action = Action::Remove;
    for i in 0..1000 {
        node.instance_type = format!("{i}-{long}");
        (node.zone, node.pool) = (long.clone(), long.clone());
        report.nodes.push(node.clone());
        report.notes.push(long.clone());
    }
    let status = report_status(&report, None, Duration::from_secs(600));
    let size = serde_json::to_vec(&status).unwrap().len();
    assert!(size < 128 * 1024, "{size} bytes");
    assert_eq!((status.remove.len(), status.notes.len()), (50, 10));
    assert!(status.omitted >= 950 + 990);
}

#[test]
fn what_was_watched_adds_up_and_gaps_do_not_count() {
    let mut report = report_of(&half_empty());
    let gap = Duration::from_secs(600);
    let first = report_status(&report, None, gap);
    let begun = first.watched.clone().unwrap();
    assert_eq!((begun.seconds, begun.paid.as_str()), (0, "0.0000"));

    report.taken += Duration::from_secs(300);
    let second = report_status(&report, Some(&first), gap);
    let sums = second.watched.clone().unwrap();
    assert_eq!(sums.seconds, 300);
    assert_eq!(sums.paid, format!("{:.4}", 6.0 * 0.192 / 12.0));
    assert_eq!(
        sums.reachable,
        format!("{:.4}", report.reachable.cost.per_hour / 12.0)
    );

    report.taken += Duration::from_secs(3600);
    let third = report_status(&report, Some(&second), gap).watched.unwrap();
    assert_eq!((third.seconds, &third.paid), (300, &sums.paid));
    assert_eq!(third.since, begun.since);
}
