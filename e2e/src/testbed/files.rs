//! The files and the command lines of the control plane's parts.

use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use kube::Client;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

use super::CONTEXT;
use crate::ports;

/// Requests per second and burst of every client of ours. The defaults (20 and 30) would take most of a minute to
/// create a thousand pods, and the figures would be theirs.
const CLIENT_QPS: u32 = 1000;

/// Every request with its user, verb, object and times. Health checks, and the leases that the testbed's own parts
/// renew all the time, are left out.
const AUDIT_POLICY: &str = "\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: None
  nonResourceURLs: [\"/healthz*\", \"/livez*\", \"/readyz*\", \"/openapi/*\", \"/version\"]
- level: None
  resources:
  - group: coordination.k8s.io
    resources: [leases]
  userGroups: [plimsoll:testbed]
- level: Metadata
";

/// Stages of the simulated kubelet, one file per kind.
const STAGES: [(&str, &str); 2] = [
    ("node.yaml", include_str!("../../kwok/stages/node.yaml")),
    ("pod.yaml", include_str!("../../kwok/stages/pod.yaml")),
];

/// Everything a control plane reads, written to its run directory.
pub(super) struct Files {
    dir: PathBuf,
    apiserver_port: u16,
    ca_der: Vec<u8>,
}

impl Files {
    /// Makes the run directory, which only its owner can read: it holds an administrator's token.
    pub(super) fn write(dir: &Path) -> Result<Self> {
        if dir.exists() {
            fs::remove_dir_all(dir).with_context(|| format!("removing {}", dir.display()))?;
        }
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir.join("logs"))
            .with_context(|| format!("making {}", dir.display()))?;
        let apiserver_port = ports::free()?;
        let ca_der = write_certificates(dir)?;
        let files = Self {
            dir: dir.to_owned(),
            apiserver_port,
            ca_der,
        };

        let mut tokens = String::new();
        for user in [
            "admin",
            "system:kube-controller-manager",
            "system:kube-scheduler",
            "kwok",
        ] {
            let token = random_token()?;
            // Every part of the testbed is an administrator, but has a name of its own in the audit log. The second
            // group leaves the parts' leases out of it.
            let group = if user == "admin" {
                "system:masters"
            } else {
                "system:masters,plimsoll:testbed"
            };
            writeln!(tokens, "{token},{user},{user},\"{group}\"")?;
            write_secret(&files.kubeconfig(user), &files.kubeconfig_text(user, &token))?;
        }
        write_secret(&dir.join("tokens.csv"), &tokens)?;
        fs::write(dir.join("audit-policy.yaml"), AUDIT_POLICY)?;
        fs::write(dir.join("scheduler.yaml"), files.scheduler_config())?;
        fs::write(dir.join("kwok-options.yaml"), KWOK_OPTIONS)?;
        for (name, stages) in STAGES {
            fs::write(dir.join(name), stages)?;
        }
        Ok(files)
    }

    pub(super) fn admin_kubeconfig(&self) -> PathBuf {
        self.kubeconfig("admin")
    }

    pub(super) fn apiserver_port(&self) -> u16 {
        self.apiserver_port
    }

    /// A client without credentials for a server with a certificate of ours: enough for health checks.
    pub(super) fn client(&self, port: u16) -> Result<Client> {
        let mut config = kube::Config::new(format!("https://127.0.0.1:{port}").parse()?);
        config.root_cert = Some(vec![self.ca_der.clone()]);
        config.default_retry = false;
        Ok(Client::try_from(config)?)
    }

    /// The same for a server without TLS.
    pub(super) fn plain_client(port: u16) -> Result<Client> {
        let mut config = kube::Config::new(format!("http://127.0.0.1:{port}").parse()?);
        config.default_retry = false;
        Ok(Client::try_from(config)?)
    }

    pub(super) fn etcd_args(&self, client_port: u16, peer_port: u16) -> Vec<String> {
        let client = format!("http://127.0.0.1:{client_port}");
        let peer = format!("http://127.0.0.1:{peer_port}");
        vec![
            "--name=testbed".to_owned(),
            format!("--data-dir={}", self.path("etcd")),
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster=testbed={peer}"),
            // The data is thrown away with the testbed.
            "--unsafe-no-fsync".to_owned(),
            "--quota-backend-bytes=4294967296".to_owned(),
            "--log-level=warn".to_owned(),
        ]
    }

    pub(super) fn apiserver_args(&self, etcd_port: u16) -> Vec<String> {
        vec![
            format!("--etcd-servers=http://127.0.0.1:{etcd_port}"),
            "--bind-address=127.0.0.1".to_owned(),
            "--advertise-address=127.0.0.1".to_owned(),
            // A loopback address may not be an endpoint of the Service `kubernetes`, and no pod is there to use it.
            "--endpoint-reconciler-type=none".to_owned(),
            format!("--secure-port={}", self.apiserver_port),
            format!("--tls-cert-file={}", self.path("server.crt")),
            format!("--tls-private-key-file={}", self.path("server.key")),
            format!("--token-auth-file={}", self.path("tokens.csv")),
            "--authorization-mode=RBAC".to_owned(),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            format!(
                "--service-account-signing-key-file={}",
                self.path("service-account.key")
            ),
            format!("--service-account-key-file={}", self.path("service-account.pub")),
            // Pods do not read tokens here, and without the plugin they need no ServiceAccount to exist first.
            "--disable-admission-plugins=ServiceAccount".to_owned(),
            "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
            "--allow-privileged=true".to_owned(),
            format!("--audit-policy-file={}", self.path("audit-policy.yaml")),
            format!("--audit-log-path={}", self.path("audit.log")),
            "--audit-log-format=json".to_owned(),
            // One file, so that a reader finds the whole run in it (MiB).
            "--audit-log-maxsize=4096".to_owned(),
        ]
    }

    pub(super) fn controller_manager_args(&self, port: u16) -> Vec<String> {
        vec![
            format!(
                "--kubeconfig={}",
                self.kubeconfig("system:kube-controller-manager").display()
            ),
            format!("--kube-api-qps={CLIENT_QPS}"),
            format!("--kube-api-burst={CLIENT_QPS}"),
            "--leader-elect=false".to_owned(),
            // Those that need a cloud or assign addresses to nodes.
            "--controllers=*,-node-ipam-controller,-service-lb-controller,-node-route-controller,\
             -cloud-node-lifecycle-controller"
                .to_owned(),
            "--concurrent-replicaset-syncs=20".to_owned(),
            format!(
                "--service-account-private-key-file={}",
                self.path("service-account.key")
            ),
            format!("--root-ca-file={}", self.path("ca.crt")),
            "--bind-address=127.0.0.1".to_owned(),
            format!("--secure-port={port}"),
            format!("--tls-cert-file={}", self.path("server.crt")),
            format!("--tls-private-key-file={}", self.path("server.key")),
        ]
    }

    pub(super) fn scheduler_args(&self, port: u16) -> Vec<String> {
        vec![
            format!("--config={}", self.path("scheduler.yaml")),
            "--bind-address=127.0.0.1".to_owned(),
            format!("--secure-port={port}"),
            format!("--tls-cert-file={}", self.path("server.crt")),
            format!("--tls-private-key-file={}", self.path("server.key")),
        ]
    }

    pub(super) fn kwok_args(&self, port: u16) -> Vec<String> {
        let mut args = vec![
            format!("--kubeconfig={}", self.kubeconfig("kwok").display()),
            "--manage-nodes-with-annotation-selector=kwok.x-k8s.io/node=fake".to_owned(),
            // With leases, as kubelets have, the heartbeat in a node's status can be rare.
            "--node-lease-duration-seconds=40".to_owned(),
            format!("--server-address=127.0.0.1:{port}"),
            format!("--config={}", self.path("kwok-options.yaml")),
        ];
        args.extend(STAGES.map(|(name, _)| format!("--config={}", self.path(name))));
        args
    }

    fn path(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }

    fn kubeconfig(&self, user: &str) -> PathBuf {
        match user {
            "admin" => self.dir.join("kubeconfig"),
            part => self
                .dir
                .join(format!("{}.kubeconfig", part.trim_start_matches("system:"))),
        }
    }

    fn kubeconfig_text(&self, user: &str, token: &str) -> String {
        format!(
            "apiVersion: v1\n\
             kind: Config\n\
             clusters:\n\
             - name: {CONTEXT}\n  cluster:\n    server: https://127.0.0.1:{port}\n    certificate-authority: {ca_file}\n\
             users:\n\
             - name: \"{user}\"\n  user:\n    token: {token}\n\
             contexts:\n\
             - name: {CONTEXT}\n  context:\n    cluster: {CONTEXT}\n    user: \"{user}\"\n\
             current-context: {CONTEXT}\n",
            port = self.apiserver_port,
            ca_file = self.path("ca.crt"),
        )
    }

    fn scheduler_config(&self) -> String {
        format!(
            "apiVersion: kubescheduler.config.k8s.io/v1\n\
             kind: KubeSchedulerConfiguration\n\
             leaderElection:\n  leaderElect: false\n\
             clientConnection:\n  kubeconfig: {}\n  qps: {CLIENT_QPS}\n  burst: {CLIENT_QPS}\n",
            self.kubeconfig("system:kube-scheduler").display()
        )
    }
}

/// One kwok plays thousands of kubelets, so it gets more than its default of 4 workers, and addresses for all pods.
const KWOK_OPTIONS: &str = "\
apiVersion: config.kwok.x-k8s.io/v1alpha1
kind: KwokConfiguration
metadata:
  name: plimsoll-testbed
options:
  cidr: 10.128.0.0/9
  nodeIP: 10.64.0.1
  podPlayStageParallelism: 16
  nodePlayStageParallelism: 16
  nodeLeaseParallelism: 16
  podsOnNodeSyncParallelism: 16
";

/// A CA, a certificate for every server on the loopback address, and the key that signs service account tokens.
/// Returns the CA's certificate in DER.
fn write_certificates(dir: &Path) -> Result<Vec<u8>> {
    let ca_key = KeyPair::generate()?;
    let mut ca_params = CertificateParams::new(Vec::<String>::new())?;
    ca_params
        .distinguished_name
        .push(rcgen::DnType::CommonName, "plimsoll testbed");
    ca_params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = ca_params.self_signed(&ca_key)?;
    let issuer = Issuer::from_params(&ca_params, &ca_key);

    let server_key = KeyPair::generate()?;
    let mut server_params = CertificateParams::new(vec!["127.0.0.1".to_owned(), "localhost".to_owned()])?;
    server_params
        .distinguished_name
        .push(rcgen::DnType::CommonName, "127.0.0.1");
    let server = server_params.signed_by(&server_key, &issuer)?;

    fs::write(dir.join("ca.crt"), ca.pem())?;
    fs::write(dir.join("server.crt"), server.pem())?;
    write_secret(&dir.join("server.key"), &server_key.serialize_pem())?;
    let tokens_key = KeyPair::generate()?;
    write_secret(&dir.join("service-account.key"), &tokens_key.serialize_pem())?;
    fs::write(dir.join("service-account.pub"), tokens_key.public_key_pem())?;
    Ok(ca.der().to_vec())
}

/// Anybody on this machine can connect to the loopback address, so a token must not be guessable.
fn random_token() -> Result<String> {
    let mut bytes = [0_u8; 16];
    fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(format!("{:032x}", u128::from_be_bytes(bytes)))
}

fn write_secret(file: &Path, text: &str) -> Result<()> {
    let mut open = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(file)?;
    open.write_all(text.as_bytes())?;
    Ok(())
}
