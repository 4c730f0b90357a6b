//! The provider between two accounts.

use std::time::Duration;

use super::*;
use crate::{account::PATIENCE, fake};

/// A running machine of the cluster `prod`, as DescribeInstances shows it.
const MACHINE: &str = "<reservationSet><item><instancesSet><item><instanceId>i-1</instanceId>\
    <instanceState><name>running</name></instanceState><vpcId>vpc-1</vpcId>\
    <placement><availabilityZone>us-east-1a</availabilityZone></placement><tagSet>\
    <item><key>kubernetes.io/cluster/prod</key><value>owned</value></item>\
    <item><key>karpenter.sh/nodepool</key><value>default</value></item>\
    </tagSet></item></instancesSet></item></reservationSet>";

#[tokio::test(start_paused = true)]
async fn a_silent_account_keeps_no_machine_of_another_from_its_end() {
    let aws = fake::Aws::default();
    // No claim is told, so nothing is asked of Kubernetes.
    let nowhere = kube::Config::new("http://127.0.0.1:1".parse().unwrap());
    let client = Client::try_from(nowhere).unwrap();
    let identity = aws.identity();
    let cloud = AwsCloud::new(
        fake::settings(),
        (identity.clone(), &identity),
        fake::cluster(),
        None,
        client,
    );
    for name in ["a", "b"] {
        let role = Role {
            arn: format!("arn:aws:iam::210987654321:role/{name}"),
            vpc_id: None,
        };
        cloud.accounts.of(Some(&role)).await.unwrap();
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
