//! The provider as a whole, between two accounts.

mod launch;

use std::time::Duration;

use plimsoll_api::ec2nodeclass::EC2NodeClassSpec;

use super::*;
use crate::{account::PATIENCE, fake, instances::Instances, role::ALL_ASSUMED};

/// A running machine of the cluster `prod`, as DescribeInstances shows it.
const MACHINE: &str = "<reservationSet><item><instancesSet><item><instanceId>i-1</instanceId>\
    <instanceState><name>running</name></instanceState><vpcId>vpc-1</vpcId>\
    <placement><availabilityZone>us-east-1a</availabilityZone></placement><tagSet>\
    <item><key>kubernetes.io/cluster/prod</key><value>owned</value></item>\
    <item><key>karpenter.sh/nodepool</key><value>default</value></item>\
    </tagSet></item></instancesSet></item></reservationSet>";

/// A type and a zone in which it is sold, as EC2 describes them.
const TYPE: &str = "<instanceTypeSet><item><instanceType>m5.large</instanceType><processorInfo><supportedArchitectures>\
    <item>x86_64</item></supportedArchitectures></processorInfo><vCpuInfo><defaultVCpus>2</defaultVCpus></vCpuInfo>\
    </item></instanceTypeSet>";
const OFFERING: &str = "<instanceTypeOfferingSet><item><instanceType>m5.large</instanceType>\
    <location>us-east-1a</location></item></instanceTypeOfferingSet>";

fn cloud(aws: &fake::Aws, classes: &[EC2NodeClass]) -> AwsCloud {
    let identity = aws.identity();
    let settings = Settings {
        isolated_vpc: true,
        ..fake::settings()
    };
    let client = fake::kubernetes(classes);
    AwsCloud::new(
        settings,
        (identity.clone(), &identity),
        fake::cluster(),
        Some("https://sqs.us-east-1.amazonaws.com/123456789012/prod".into()),
        client,
    )
}

fn role(name: &str) -> Role {
    Role {
        arn: format!("arn:aws:iam::210987654321:role/{name}"),
        vpc_id: None,
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_account_keeps_no_machine_of_another_from_its_end() {
    let aws = fake::Aws::default();
    let cloud = cloud(&aws, &[]);
    for name in ["a", "b"] {
        cloud.accounts.of(Some(&role(name))).await.unwrap();
    }
    // Each role was assumed once when it was tried; the next sessions are those of the calls, in order.
    aws.silence("token-3");
    aws.next("DescribeInstances", "");
    aws.next("DescribeInstances", MACHINE);
    let deleted = cloud.delete("aws:///us-east-1a/i-1", None);
    let deleted = tokio::time::timeout(PATIENCE + Duration::from_secs(5), deleted).await;
    assert_eq!(deleted.expect("in time"), Ok(Termination::Started));
    assert_eq!(
        aws.seen(),
        ["", "token-4", "token-4"],
        "at home, looked up, ended"
    );
}

#[tokio::test(start_paused = true)]
async fn what_is_not_ours_is_neither_ended_nor_tagged() {
    for (changed, says) in [
        (MACHINE.replace("vpc-1", "vpc-2"), "vpc-2"),
        (
            MACHINE.replace("karpenter.sh/nodepool", "owner"),
            "karpenter.sh/nodepool",
        ),
        (
            MACHINE.replace("cluster/prod", "cluster/test"),
            "kubernetes.io/cluster/prod",
        ),
    ] {
        let aws = fake::Aws::default();
        let instances = Instances::new(aws.identity().ec2(), fake::cluster());
        let machine = "aws:///us-east-1a/i-1";
        aws.next("DescribeInstances", &changed);
        let ended = instances.end(machine).await.unwrap_err();
        assert!(
            matches!(&ended, ProviderError::NotOurs { why, .. } if why.contains(says)),
            "{ended}"
        );
        aws.next("DescribeInstances", &changed);
        let tags = [("Name".to_owned(), "node".to_owned())].into();
        let tagged = instances.add_tags(machine, tags).await.unwrap_err();
        assert!(
            matches!(&tagged, ProviderError::NotOurs { why, .. } if why.contains(says)),
            "{tagged}"
        );
        assert_eq!(aws.seen().len(), 2, "looked up twice, and nothing else");
    }
    let aws = fake::Aws::default();
    let instances = Instances::new(aws.identity().ec2(), fake::cluster());
    aws.next("DescribeInstances", MACHINE);
    let elsewhere = instances.end("aws:///us-east-1b/i-1").await.unwrap_err();
    assert!(matches!(elsewhere, ProviderError::NotOurs { .. }), "{elsewhere}");
    assert_eq!(aws.seen().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_list_names_the_classes_of_which_there_may_be_more_machines() {
    let aws = fake::Aws::default();
    let class = |name: &str, remembered: &[&str]| {
        let mut class = EC2NodeClass::new(name, EC2NodeClassSpec::default());
        let all = remembered.iter().map(|name| (role(name), None)).collect();
        let annotation = (ALL_ASSUMED.to_owned(), role::remembered(&all));
        class.metadata.annotations = Some([annotation].into());
        class
    };
    let cloud = cloud(
        &aws,
        &[
            class("home", &[]),
            class("one", &["a"]),
            class("two", &["a", "b"]),
        ],
    );
    for name in ["a", "b"] {
        cloud.accounts.of(Some(&role(name))).await.unwrap();
    }
    let unseen = async || cloud.list(&[]).await.unwrap().unseen_classes;
    assert_eq!(unseen().await, []);
    aws.silence("token-4");
    assert_eq!(unseen().await, [reference("two")]);
}

#[tokio::test(start_paused = true)]
async fn what_another_account_sells_is_asked_for_once_it_is_open_and_holds_up_nobody() {
    let aws = fake::Aws::default();
    let cloud = cloud(&aws, &[]);
    for _ in ["at home", "open"] {
        aws.next("DescribeInstanceTypes", TYPE);
        aws.next("DescribeInstanceTypeOfferings", OFFERING);
    }
    let begin = tokio::time::Instant::now();
    let changes = async {
        cloud.catalog_changed().await;
        let [silent, open] = [role("a"), role("b")];
        aws.silence("token-3");
        for role in [&silent, &open] {
            cloud.accounts.of(Some(role)).await.unwrap();
        }
        cloud.catalog_changed().await;
        let known = |role| {
            cloud
                .accounts
                .opened_for(Some(role))
                .unwrap()
                .market
                .known()
                .is_some()
        };
        (known(&silent), known(&open))
    };
    let known = tokio::select! {
        known = changes => known,
        () = cloud.keep_market() => unreachable!("it goes on for ever"),
    };
    assert_eq!(known, (false, true));
    assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
}
