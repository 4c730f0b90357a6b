"""Launches one instance with user data that joins the cluster, and prints its id. Used by e2e/tests/cloud.rs."""

import base64
import os

import boto3

USER_DATA = """apiVersion: node.eks.aws/v1alpha1
kind: NodeConfig
spec:
  cluster:
    name: {CLUSTER}
    apiServerEndpoint: {KUBE_ENDPOINT}
    certificateAuthority: {KUBE_CA}
    cidr: 172.20.0.0/16
  kubelet:
    config:
      registerWithTaints:
        - {{key: karpenter.sh/unregistered, effect: NoExecute}}
    flags:
      - --node-labels=karpenter.sh/nodepool=default
"""
PARAMETER = "/aws/service/eks/optimized-ami/1.36/amazon-linux-2023/x86_64/standard/recommended/image_id"

region = os.environ["AWS_REGION"]
ec2 = boto3.client("ec2", region_name=region)
image = boto3.client("ssm", region_name=region).get_parameter(Name=PARAMETER)[
    "Parameter"
]["Value"]
ec2.create_launch_template(
    LaunchTemplateName="launch.py",
    LaunchTemplateData={
        "ImageId": image,
        "UserData": base64.b64encode(USER_DATA.format(**os.environ).encode()).decode(),
        "IamInstanceProfile": {"Name": os.environ["PROFILE"]},
    },
)
answer = ec2.create_fleet(
    Type="instant",
    LaunchTemplateConfigs=[
        {
            "LaunchTemplateSpecification": {
                "LaunchTemplateName": "launch.py",
                "Version": "$Latest",
            },
            "Overrides": [
                {"InstanceType": "m5.large", "SubnetId": os.environ["SUBNET"]}
            ],
        }
    ],
    TargetCapacitySpecification={
        "TotalTargetCapacity": 1,
        "DefaultTargetCapacityType": "on-demand",
    },
)
for instance in answer["Instances"]:
    print(*instance["InstanceIds"])
