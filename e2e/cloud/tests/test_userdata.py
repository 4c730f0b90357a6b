import pytest

from plimsoll_cloud.userdata import Kubelet, WouldNotJoin, read

AL2023 = """MIME-Version: 1.0
Content-Type: multipart/mixed; boundary="//"

--//
Content-Type: text/x-shellscript; charset="us-ascii"

#!/bin/bash
echo of the user
--//
Content-Type: application/node.eks.aws

apiVersion: node.eks.aws/v1alpha1
kind: NodeConfig
spec:
  kubelet:
    config:
      maxPods: 4
    flags:
      - --node-labels=user=label
--//
Content-Type: application/node.eks.aws

# Ours comes last and wins.
apiVersion: node.eks.aws/v1alpha1
kind: NodeConfig
spec:
  cluster:
    name: c
    apiServerEndpoint: https://e
    certificateAuthority: Q0E=
    cidr: 172.20.0.0/16
  instance:
    localStorage:
      strategy: RAID0
  kubelet:
    config:
      maxPods: 29
      clusterDNS: [172.20.0.10]
      kubeReserved: {cpu: 100m}
      evictionHard: {memory.available: 5%}
      registerWithTaints:
        - {key: karpenter.sh/unregistered, effect: NoExecute}
        - {key: team, value: a, effect: NoSchedule}
    flags:
      - --node-labels="karpenter.sh/capacity-type=spot,karpenter.sh/nodepool=default"
--//--
"""

AL2 = """MIME-Version: 1.0
Content-Type: multipart/mixed; boundary="//"

--//
Content-Type: text/x-shellscript; charset="us-ascii"

#!/bin/bash -xe
exec > >(tee /var/log/user-data.log|logger -t user-data -s 2>/dev/console) 2>&1
/etc/eks/bootstrap.sh 'c' --apiserver-endpoint 'https://e' --b64-cluster-ca 'Q0E=' \\
--dns-cluster-ip '172.20.0.10' \\
--use-max-pods false \\
--kubelet-extra-args '--node-labels="karpenter.sh/nodepool=default" --register-with-taints="karpenter.sh/unregistered:NoExecute,team=a:NoSchedule" --max-pods=29 --kube-reserved=cpu=100m --eviction-hard=memory.available<5%' \\
--local-disks raid0
echo done
--//--
"""

BOTTLEROCKET = """
[settings.kubernetes]
cluster-name = "c"
api-server = "https://e"
cluster-certificate = "Q0E="
cluster-dns-ip = "172.20.0.10"
max-pods = 29
[settings.kubernetes.node-labels]
"karpenter.sh/nodepool" = "default"
[settings.kubernetes.node-taints]
"karpenter.sh/unregistered" = [":NoExecute"]
team = ["a:NoSchedule"]
[settings.kubernetes.kube-reserved]
cpu = "100m"
[settings.kubernetes.eviction-hard]
"memory.available" = "5%"
[settings.bootstrap-commands.000-mount-instance-storage]
commands = [["apiclient", "ephemeral-storage", "init"]]
mode = "always"
essential = true
"""

TAINTS = [("karpenter.sh/unregistered", "", "NoExecute"), ("team", "a", "NoSchedule")]


@pytest.mark.parametrize(
    ("family", "text"),
    [("al2023", AL2023), ("al2", AL2), ("bottlerocket", BOTTLEROCKET)],
)
def test_all_families_say_the_same(family, text):
    found = read(family, text)
    assert found.labels.pop("user", "label") == "label"
    assert found.labels.pop("karpenter.sh/capacity-type", "spot") == "spot"
    assert found.service_cidr in (None, "172.20.0.0/16")
    found.service_cidr = None
    assert found == Kubelet(
        cluster="c",
        endpoint="https://e",
        ca="Q0E=",
        labels={"karpenter.sh/nodepool": "default"},
        taints=TAINTS,
        max_pods=29,
        cluster_dns=["172.20.0.10"],
        kube_reserved={"cpu": "100m"},
        eviction_hard={"memory.available": "5%"},
        raid0=True,
    )


def test_a_plain_node_config_needs_no_mime():
    text = AL2023.split("# Ours comes last and wins.\n")[1].split("--//")[0]
    assert read("al2023", text).cluster == "c"


@pytest.mark.parametrize(
    ("family", "text", "reason"),
    [
        ("al2023", "", "no user data"),
        ("al2023", "#!/bin/bash\necho hello\n", "no NodeConfig"),
        (
            "al2023",
            AL2023.replace("    certificateAuthority: Q0E=\n", ""),
            "certificateAuthority",
        ),
        (
            "al2023",
            AL2023.replace(
                "v1alpha1\nkind: NodeConfig\nspec:\n  cluster",
                "v1\nkind: NodeConfig\nspec:\n  cluster",
            ),
            "v1 NodeConfig",
        ),
        ("al2023", AL2023.replace("    name: c\n", "  name: [\n"), "cannot parse"),
        ("al2023", AL2023.replace('boundary="//"', 'boundary="==x"'), "boundary"),
        (
            "al2023",
            AL2023.replace("--node-labels=user=label", "node-labels"),
            "does not understand",
        ),
        ("al2023", AL2023 + "x" * 16384, "bytes"),
        ("al2", AL2.replace("bootstrap.sh", "bootstrap.py"), "bootstrap.sh"),
        ("al2", AL2.replace("--b64-cluster-ca 'Q0E='", ""), "--b64-cluster-ca"),
        ("al2", AL2.replace("'c' ", ""), "one cluster name"),
        ("al2", AL2.replace("team=a:NoSchedule", "team=a"), "not a taint"),
        ("bottlerocket", BOTTLEROCKET.replace('"c"', "c"), "parse the TOML"),
        ("bottlerocket", BOTTLEROCKET.replace("api-server", "api"), "api-server"),
        (
            "bottlerocket",
            BOTTLEROCKET.replace('"a:NoSchedule"', '"NoSchedule"'),
            "value:effect",
        ),
        ("bottlerocket", AL2023, "parse the TOML"),
    ],
)
def test_what_would_not_join(family, text, reason):
    with pytest.raises(WouldNotJoin, match=reason):
        read(family, text)
