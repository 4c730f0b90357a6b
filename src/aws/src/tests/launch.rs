//! Launches that are refused, whose answers are lost, or which EC2 does not show yet.

use std::fmt::Write;

use futures::{FutureExt, future::join_all};
use plimsoll_api::{
    ec2nodeclass::AMIFamily,
    nodepool::{NodeClaimTemplate, NodePoolSpec},
};
use plimsoll_core::resources::Resources;
use serde_json::json;

use super::*;
use crate::{account::LAUNCHES_MAX, launches::VISIBLE_WITHIN};

const TYPES: [&str; 2] = ["m5.large", "r5.large"];
const ZONES: [&str; 2] = ["us-east-1a", "us-east-1b"];

/// A class that is ready, with a subnet in each zone.
fn class(name: &str) -> EC2NodeClass {
    let ready = json!({
        "type": "Ready", "status": "True", "reason": "Ready", "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    });
    let status = json!({
        "subnets": ZONES.map(|zone| json!({ "id": subnet(zone), "zone": zone })),
        "amis": [{ "id": "ami-1", "requirements": [] }],
        "conditions": [ready],
    });
    let spec = EC2NodeClassSpec {
        ami_family: Some(AMIFamily::Bottlerocket),
        ..EC2NodeClassSpec::default()
    };
    let mut class = EC2NodeClass::new(name, spec);
    class.status = serde_json::from_value(status).unwrap();
    class
}

fn subnet(zone: &str) -> String {
    format!("subnet-of-{zone}")
}

fn pool(name: &str, class: &str) -> Arc<NodePool> {
    let mut template = NodeClaimTemplate::default();
    template.spec.node_class_ref = reference(class);
    let spec = NodePoolSpec {
        template,
        ..NodePoolSpec::default()
    };
    Arc::new(NodePool::new(name, spec))
}

/// The claim `uid`, which takes whatever its class has.
fn request(uid: &str) -> LaunchRequest {
    let mut claim = NodeClaim::new(uid, Default::default());
    claim.metadata.uid = Some(uid.into());
    claim.spec.node_class_ref = reference("one");
    LaunchRequest {
        claim: Arc::new(claim),
        requirements: Vec::new(),
        requests: Resources::default(),
    }
}

/// A provider of the classes `one` and `two`, where all types are sold on demand in all zones.
fn ready(aws: &fake::Aws) -> AwsCloud {
    let (mut types, mut offerings) = (String::new(), String::new());
    for type_ in TYPES {
        let usage = "<supportedUsageClasses><item>on-demand</item></supportedUsageClasses><vCpuInfo>";
        let described = TYPE.replace("m5.large", type_).replace("<vCpuInfo>", usage);
        types += &described
            .replace("<instanceTypeSet>", "")
            .replace("</instanceTypeSet>", "");
        for zone in ZONES {
            write!(
                offerings,
                "<item><instanceType>{type_}</instanceType><location>{zone}</location></item>"
            )
            .unwrap();
        }
    }
    let set = |name: &str, items: &str| format!("<{name}>{items}</{name}>");
    aws.next("DescribeInstanceTypes", &set("instanceTypeSet", &types));
    aws.next(
        "DescribeInstanceTypeOfferings",
        &set("instanceTypeOfferingSet", &offerings),
    );
    cloud(aws, &[class("one"), class("two")])
}

fn place() -> String {
    let [type_, zone] = [TYPES[0], ZONES[0]];
    format!(
        "<launchTemplateAndOverrides><overrides><instanceType>{type_}</instanceType><subnetId>{}</subnetId>\
         <availabilityZone>{zone}</availabilityZone></overrides></launchTemplateAndOverrides>",
        subnet(zone)
    )
}

/// The next launch in the first zone, of the first type, is refused.
fn refuse(aws: &fake::Aws, code: &str) {
    let error = format!(
        "<errorSet><item><errorCode>{code}</errorCode>{}</item></errorSet>",
        place()
    );
    aws.next("CreateFleet", &error);
}

/// The next launch brings the machine `i-1`.
fn launch(aws: &fake::Aws) {
    let machine = format!(
        "<fleetInstanceSet><item><instanceIds><item>i-1</item></instanceIds><instanceType>{}</instanceType>{}</item>\
         </fleetInstanceSet>",
        TYPES[0],
        place()
    );
    aws.next("CreateFleet", &machine);
}

/// What pools of two classes are offered, as type and last letter of the zone.
async fn offered(cloud: &AwsCloud) -> [Vec<String>; 2] {
    let pools = [pool("a", "one"), pool("b", "two")];
    let catalog = cloud.catalog(&pools).await.unwrap();
    ["a", "b"].map(|pool| {
        let types = catalog.by_pool[pool]
            .iter()
            .map(|id| &catalog.types[id.0 as usize]);
        let offers = types.flat_map(|t| t.offerings.iter().filter(|o| o.available).map(move |o| (t, o)));
        offers
            .map(|(t, o)| format!("{} {}", t.name, &o.zone[o.zone.len() - 1..]))
            .collect()
    })
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_to_one_pool_is_not_asked_for_by_another_and_each_refusal_closes_what_it_is_about() {
    for (code, left) in [
        (
            "InsufficientInstanceCapacity",
            &["m5.large b", "r5.large a", "r5.large b"][..],
        ),
        ("VcpuLimitExceeded", &["r5.large a", "r5.large b"]),
        ("InsufficientFreeAddressesInSubnet", &["m5.large b", "r5.large b"]),
    ] {
        let aws = fake::Aws::default();
        let cloud = ready(&aws);
        let all = ["m5.large a", "m5.large b", "r5.large a", "r5.large b"];
        assert_eq!(offered(&cloud).await, [all, all]);
        refuse(&aws, code);
        // What is left is asked for next, and EC2 says nothing to that.
        let answer = cloud.create(&request("u-1")).await;
        assert!(matches!(answer, Err(ProviderError::Transient(_))), "{answer:?}");
        assert!(cloud.catalog_changed().now_or_never().is_some(), "{code}");
        assert_eq!(offered(&cloud).await, [left, left], "{code}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_claim_has_no_machine_only_when_ec2_would_show_it() {
    let aws = fake::Aws::default();
    let cloud = ready(&aws);
    let finds = async |uid: &str| cloud.find(&request(uid).claim).await;
    let not_told = |found| matches!(found, Err(ProviderError::Transient(_)));
    assert!(
        not_told(finds("u-1").await),
        "a former process may have launched it"
    );
    tokio::time::advance(VISIBLE_WITHIN).await;
    assert_eq!(finds("u-1").await, Ok(None));

    aws.next_refused("CreateFleet", "InternalError");
    assert!(cloud.create(&request("u-1")).await.is_err());
    assert!(not_told(finds("u-1").await), "its answer was lost");
    for _ in TYPES.iter().flat_map(|_| ZONES) {
        refuse(&aws, "InsufficientInstanceCapacity");
    }
    assert!(cloud.create(&request("u-2")).await.is_err());
    assert_eq!(
        finds("u-2").await,
        Ok(None),
        "it is known that nothing was launched"
    );
    tokio::time::advance(VISIBLE_WITHIN).await;
    assert_eq!(finds("u-1").await, Ok(None));

    // Whoever begins to lead does not know what the former leader did meanwhile.
    let _ = tokio::time::timeout(Duration::from_millis(1), cloud.work()).await;
    assert!(not_told(finds("u-1").await));
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_ec2_does_not_know_yet_is_not_gone() {
    let aws = fake::Aws::default();
    let cloud = ready(&aws);
    tokio::time::advance(VISIBLE_WITHIN).await;
    launch(&aws);
    let machine = cloud.create(&request("u-1")).await.unwrap();
    let deletes = async || {
        aws.next("DescribeInstances", MACHINE);
        aws.next_refused("TerminateInstances", "InvalidInstanceID.NotFound");
        cloud.delete(&machine.provider_id, None).await
    };
    assert_eq!(deletes().await, Ok(Termination::Started));
    tokio::time::advance(VISIBLE_WITHIN).await;
    assert_eq!(deletes().await, Ok(Termination::Gone));
}

#[tokio::test(start_paused = true)]
async fn a_launch_that_looks_for_its_machine_holds_up_no_other() {
    let aws = fake::Aws::default();
    let cloud = ready(&aws);
    let home = cloud.accounts.home();
    let _others = join_all((1..LAUNCHES_MAX).map(|_| home.turn())).await;
    aws.next_refused("CreateFleet", "IdempotentParameterMismatch");
    let request = request("u-1");
    let launch = cloud.create(&request);
    let turn = async {
        // It is refused at once and then looks for seconds.
        tokio::time::sleep(Duration::from_secs(2)).await;
        home.turn().now_or_never().is_some()
    };
    tokio::select! {
        answer = launch => unreachable!("{answer:?}"),
        is_free = turn => assert!(is_free),
    }
}

#[tokio::test(start_paused = true)]
async fn word_of_a_machine_that_is_not_recorded_yet_is_kept() {
    let aws = fake::Aws::default();
    let cloud = ready(&aws);
    assert!(
        !cloud.is_new("i-1").await,
        "it is not shown, and nobody here launched it"
    );
    launch(&aws);
    cloud.create(&request("u-1")).await.unwrap();
    assert!(cloud.is_new("i-1").await, "launched by this process");
    tokio::time::advance(VISIBLE_WITHIN).await;
    let of_age = |age: Duration| {
        let launched = format!("<launchTime>{}</launchTime><vpcId>", Timestamp::now() - age);
        MACHINE.replace("<vpcId>", &launched)
    };
    let young = of_age(Duration::from_mins(1));
    for (shown, is_new) in [
        (young.clone(), true),
        (young.replace("cluster/prod", "cluster/test"), false),
        (young.replace("running", "terminated"), false),
        (of_age(Duration::from_hours(1)), false),
    ] {
        aws.next("DescribeInstances", &shown);
        assert_eq!(cloud.is_new("i-1").await, is_new, "{shown}");
    }
}

#[tokio::test(start_paused = true)]
async fn word_of_a_machine_that_cannot_be_looked_up_is_kept_for_a_while() {
    let aws = fake::Aws::default();
    let cloud = cloud(&aws, &[]);
    for (minutes, code, is_kept) in [
        (1, "InternalError", true),
        (1, "UnauthorizedOperation", false),
        (10, "InternalError", false),
    ] {
        let said = Timestamp::now() - Duration::from_mins(minutes);
        let message = |id: &str| {
            let event = json!({
                "version": "0", "source": "aws.ec2", "detail-type": "EC2 Instance Rebalance Recommendation",
                "time": said.to_string(), "detail": { "instance-id": id },
            });
            json!({ "MessageId": id, "ReceiptHandle": id, "Body": event.to_string() })
        };
        aws.next_json(
            "ReceiveMessage",
            &json!({ "Messages": [message("i-1"), message("i-2")] }),
        );
        let found = cloud.interruptions().await.found;
        assert_eq!(found.len(), 2);
        aws.next_refused("DescribeInstances", code);
        assert_eq!(
            cloud.is_new("i-1").await,
            is_kept,
            "{code} after {minutes} minutes"
        );
    }
    // Both were handed out; the one that is kept stays in the queue.
    aws.next_json(
        "DeleteMessageBatch",
        &json!({ "Successful": [{ "Id": "0" }], "Failed": [] }),
    );
    let kept = ["i-1".to_owned()].into();
    assert_eq!(cloud.interruptions_handled(&kept).await, 1);
    let sent = aws.last("DeleteMessageBatch");
    assert!(sent.contains("\"i-2\"") && !sent.contains("\"i-1\""), "{sent}");
}
