//! `hack/demo --provider aws` from an empty cluster to an empty cluster, with what it must keep to.

use std::time::Duration;

use anyhow::{Context, Result};
use plimsoll_e2e::cloud::Leftovers;
use plimsoll_e2e::demo::{Choice, Provider, Settings, Shapes, Workload, run};
use plimsoll_e2e::testbed::Testbed;
use plimsoll_e2e::{machine_load, paths};

const PODS: usize = 1_000;
const ROUNDS_MAX: usize = 3;
/// The controller's resident set at its peak, in 10^6 bytes.
const PEAK_MB_MAX: f64 = 80.0;
/// Programs that want a core besides the demo. Where more do, pods come so slowly that plans are made for parts of them.
const OTHERS_MAX: f64 = 4.0;
/// On an idle machine the pods run after half a minute.
const PATIENCE: Duration = Duration::from_mins(5);

/// As large as the pods without GPUs of the trace that the README's figures are of, and as alike: five shapes make
/// nearly all of them, and twenty others are rare.
fn shapes() -> Shapes {
    let common = [
        ((12_500, 57_344), 330),
        ((32_000, 49_152), 250),
        ((8_000, 30_720), 150),
        ((15_400, 51_200), 115),
        ((16_500, 51_200), 95),
    ];
    let rare = (0..20).map(|n| ((8_000 + 1_200 * n, 8_192 + 2_560 * n), 3));
    common.into_iter().chain(rare).collect()
}

#[tokio::test]
async fn a_thousand_pods_come_and_go() -> Result<()> {
    let others = machine_load::one_minute()?;
    let mut testbed = Testbed::from_env().await?;
    let settings = Settings {
        workload: Workload::from_shapes("made up", &shapes())?,
        controller: Choice::Plimsoll,
        provider: Provider::Aws,
        keep: false,
        timeout: PATIENCE,
        crds: paths::crds(),
    };
    assert_eq!(settings.workload.pods, PODS);
    let (report, kept) = match run(&testbed, &settings).await {
        Ok(done) => done,
        Err(error) => return Err(error.context(format!("the logs are in {}", testbed.keep_logs().display()))),
    };
    eprintln!("[demo]\n{}", report.table());
    assert_eq!(report.failures(), [""; 0]);
    assert_eq!(report.pods_running, PODS);
    let peak = report.controller_rss_mb_peak;
    assert!((1.0..=PEAK_MB_MAX).contains(&peak), "{peak:.0} MB");
    let rounds = report.launch_rounds.context("no plan was seen")?;
    if others <= OTHERS_MAX {
        assert!((1..=ROUNDS_MAX).contains(&rounds), "{rounds} plans");
    } else {
        eprintln!("[demo] {others:.1} other programs wanted a core: the {rounds} plans are not judged");
    }
    assert_eq!(report.nodes_after_scale_down, Some(0));
    assert_eq!(report.instances_left, Some(0));
    let left = report.cloud.and_then(|cloud| cloud.left);
    assert_eq!(left, Some(Leftovers::default()), "the node class was deleted");
    drop(kept);
    Ok(())
}
