//! What the documents point to exists: files, headings, commands, flags and chart values.

#![allow(clippy::unwrap_used, reason = "the readers of documents are tests too")]

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

fn root() -> PathBuf {
    PathBuf::from(std::env::var("CARGO_MANIFEST_DIR").unwrap())
        .join("../..")
        .canonicalize()
        .unwrap()
}

/// The documents, with their texts.
fn documents() -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    for directory in [root(), root().join("docs")] {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|e| e == "md") {
                files.push(path);
            }
        }
    }
    files.sort();
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).unwrap();
        (path, text)
    };
    files.into_iter().map(read).collect()
}

/// Headings as links name them.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut fenced = false;
    let mut found = BTreeSet::new();
    for line in text.lines() {
        fenced ^= line.starts_with("```");
        if fenced || !line.starts_with('#') {
            continue;
        }
        let title = line.trim_start_matches('#').trim().to_lowercase();
        let kept = title
            .chars()
            .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        found.insert(kept.map(|c| if c == ' ' { '-' } else { c }).collect());
    }
    found
}

/// Targets of links of the form `[text](target)`.
fn links(text: &str) -> Vec<&str> {
    let targets = text.split("](").skip(1);
    targets.filter_map(|rest| rest.split(')').next()).collect()
}

#[test]
fn links_lead_to_files_and_headings_that_exist() {
    let mut wrong = Vec::new();
    let mut seen = 0;
    for (path, text) in documents() {
        for link in links(&text).into_iter().filter(|l| !l.contains("://")) {
            seen += 1;
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() {
                path.clone()
            } else {
                path.parent().unwrap().join(file)
            };
            let there = if anchor.is_empty() {
                target.exists()
            } else {
                std::fs::read_to_string(&target).is_ok_and(|text| anchors(&text).contains(anchor))
            };
            if !there {
                wrong.push(format!("{}: {link}", path.display()));
            }
        }
    }
    assert!(seen > 30, "{seen} links");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn pictures_are_shown_say_what_they_show_and_load_nothing() {
    let shown: BTreeSet<PathBuf> = documents()
        .iter()
        .flat_map(|(path, text)| {
            let directory = path.parent().unwrap().to_owned();
            links(text)
                .into_iter()
                .map(move |link| directory.join(link))
                .collect::<Vec<_>>()
        })
        .collect();
    let pictures: Vec<PathBuf> = std::fs::read_dir(root().join("docs/pictures"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert!(pictures.len() >= 4);
    for picture in pictures {
        let text = std::fs::read_to_string(&picture).unwrap();
        let name = picture.display();
        assert!(shown.contains(&picture), "{name} is in no document");
        assert!(
            text.contains("<title ") && text.contains("<desc "),
            "{name} says nothing to who cannot see it"
        );
        let loads = ["href", "url(http", "@import", "<script"];
        assert!(
            loads.iter().all(|word| !text.contains(word)),
            "{name} loads something"
        );
    }
}

#[test]
fn alerts_lead_to_the_runbook() {
    let rules =
        std::fs::read_to_string(root().join("charts/plimsoll/templates/prometheusrule.yaml")).unwrap();
    let runbook = anchors(&std::fs::read_to_string(root().join("docs/runbook.md")).unwrap());
    let alerts = rules.matches("- alert:").count();
    let targets: Vec<&str> = rules
        .lines()
        .filter_map(|l| l.trim().strip_prefix("runbook: docs/runbook.md#"))
        .collect();
    assert_eq!(targets.len(), alerts);
    for target in targets {
        assert!(runbook.contains(target), "{target}");
    }
}

#[test]
fn alerts_and_the_dashboard_ask_for_metrics_that_exist() {
    let documented = std::fs::read_to_string(root().join("docs/metrics.md")).unwrap();
    for file in ["templates/prometheusrule.yaml", "dashboard.json"] {
        let text = std::fs::read_to_string(root().join("charts/plimsoll").join(file)).unwrap();
        let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        let ours = ["plimsoll_", "karpenter_", "leader_election_"];
        let names: BTreeSet<&str> = words.filter(|w| ours.iter().any(|p| w.starts_with(p))).collect();
        assert!(names.len() >= 4, "{file}: {names:?}");
        for name in names {
            let name = name.trim_end_matches("_bucket");
            assert!(documented.contains(&format!("| `{name}` |")), "{file}: {name}");
        }
    }
}

/// Command lines: those of console blocks, continued lines joined, and inline code that begins with a program of ours.
fn commands(text: &str) -> Vec<String> {
    let joined = text.replace("\\\n", " ");
    let mut found = Vec::new();
    let mut fence = None;
    for line in joined.lines() {
        if let Some(language) = line.strip_prefix("```") {
            fence = fence.is_none().then(|| language.to_owned());
        } else if fence.as_deref() == Some("console") {
            found.push(line.trim_start_matches("$ ").to_owned());
        } else if fence.is_none() {
            let code = line.split('`').skip(1).step_by(2);
            let ours = ["plimsoll ", "helm ", "hack/"];
            found.extend(
                code.filter(|c| ours.iter().any(|p| c.starts_with(p)))
                    .map(str::to_owned),
            );
        }
    }
    found
}

fn help(subcommand: &str) -> Option<String> {
    let output = Command::new(env!("CARGO_BIN_EXE_plimsoll"))
        .args([subcommand, "--help"])
        .output()
        .unwrap();
    output
        .status
        .success()
        .then(|| String::from_utf8(output.stdout).unwrap())
}

/// A script, and the program of the testbed that goes by its name, if there is one.
fn script_source(script: &str) -> Option<String> {
    let mut source = std::fs::read_to_string(root().join(script)).ok()?;
    let program = root().join("e2e/src/bin").join(Path::new(script).file_name()?);
    let parts = std::fs::read_dir(&program).into_iter().flatten();
    let parts = parts.map(|entry| entry.unwrap().path());
    for part in parts.chain([program.with_extension("rs")]) {
        source.extend(std::fs::read_to_string(part));
    }
    Some(source)
}

/// Whether a script names the flag, or its program has a field that clap makes the flag of.
fn reads_flag(source: &str, flag: &str) -> bool {
    let names_it = |rest: &str| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '-');
    let field = format!("    {}: ", flag.trim_start_matches('-').replace('-', "_"));
    source.split(flag).skip(1).any(names_it) || source.contains(&field)
}

/// Whether a chart value of this dotted name exists.
fn has_value(values: &Value, name: &str) -> bool {
    values.pointer(&format!("/{}", name.replace('.', "/"))).is_some()
}

#[test]
fn commands_exist_and_know_their_flags() {
    let values = std::fs::read_to_string(root().join("charts/plimsoll/values.yaml")).unwrap();
    let values: Value = serde_saphyr::from_str(&values).unwrap();
    let mut helps: BTreeMap<String, Option<String>> = BTreeMap::new();
    let (mut seen, mut wrong) = (0, Vec::new());
    for (path, text) in documents() {
        for line in commands(&text) {
            // Each part of a pipeline is a command of its own; a comment is none.
            let line = line.split(" #").next().unwrap_or_default();
            for command in line.split(['|', ';']) {
                let words: Vec<&str> = command.split_whitespace().collect();
                let mut complain = |what: &str| wrong.push(format!("{}: {what}: {command}", path.display()));
                match words.as_slice() {
                    ["plimsoll", flag, ..] if flag.starts_with('-') => {}
                    ["plimsoll", subcommand, rest @ ..] => {
                        seen += 1;
                        let known = helps
                            .entry((*subcommand).to_owned())
                            .or_insert_with(|| help(subcommand));
                        let Some(help) = known else {
                            complain("no such command");
                            continue;
                        };
                        for flag in rest
                            .iter()
                            .map(|w| w.trim_matches(['[', ']']))
                            .filter(|w| w.starts_with("--"))
                        {
                            let flag = flag.split('=').next().unwrap();
                            if !help.contains(&format!("{flag} ")) && !help.contains(&format!("{flag}\n")) {
                                complain(flag);
                            }
                        }
                    }
                    ["helm", rest @ ..] => {
                        seen += 1;
                        for pair in rest.windows(2).filter(|pair| pair[0] == "--set") {
                            if !has_value(&values, pair[1].split('=').next().unwrap()) {
                                complain(pair[1]);
                            }
                        }
                    }
                    [script, rest @ ..] if script.starts_with("hack/") && !script.ends_with('/') => {
                        seen += 1;
                        let Some(source) = script_source(script) else {
                            complain("no such script");
                            continue;
                        };
                        for flag in rest.iter().filter(|w| w.starts_with("--")) {
                            if !reads_flag(&source, flag) {
                                complain(flag);
                            }
                        }
                    }
                    _ => {}
                }
            }
        }
    }
    assert!(seen > 30, "{seen} commands");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_image_that_is_pushed_is_the_one_the_chart_takes() {
    let chart = std::fs::read_to_string(root().join("charts/plimsoll/Chart.yaml")).unwrap();
    let chart: Value = serde_saphyr::from_str(&chart).unwrap();
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(chart["appVersion"], version);
    let mut pushed = 0;
    for (path, text) in documents() {
        for name in ["example.com/plimsoll:", "--build-arg VERSION="] {
            for tag in text.split(name).skip(1) {
                let tag = tag.split_whitespace().next().unwrap();
                assert_eq!(tag, version, "{}", path.display());
                pushed += 1;
            }
        }
    }
    assert!(pushed >= 3, "{pushed}");
}

#[test]
fn the_documents_have_a_dump_written_with_all_kinds_that_are_read() {
    let written = plimsoll_report::kinds::kubectl_get();
    for path in ["README.md", "docs/report.md"] {
        let text = std::fs::read_to_string(root().join(path)).unwrap();
        assert!(text.contains(&written), "{path} lacks {written}");
    }
}
