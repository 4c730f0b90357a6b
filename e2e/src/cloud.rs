//! The AWS stand-in of `e2e/cloud` as a process of its own, and a client of its control endpoint.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use http::Method;
use k8s_openapi::jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::process::{Process, Usage};
use crate::{controller, python};

/// It imports and seeds for about three seconds on an idle machine; this is for a busy one.
const START_TIMEOUT: Duration = Duration::from_mins(5);
const POLL: Duration = Duration::from_millis(50);

/// A running stand-in. Dropping it kills it.
#[derive(Debug)]
pub struct Cloud {
    process: Process,
    ready: Ready,
    port: u16,
}

/// The ready line: what is seeded, and under which names. See `e2e/cloud/README.md`.
#[derive(Debug, Clone, Deserialize)]
pub struct Ready {
    pub endpoint: String,
    pub account: String,
    pub region: String,
    pub cluster: String,
    pub kubernetes_version: String,
    pub cluster_endpoint: String,
    pub cluster_ca: String,
    pub vpc: String,
    pub other_vpc: String,
    /// Subnet by zone.
    pub subnets: BTreeMap<String, String>,
    pub security_groups: Vec<String>,
    pub other_subnet: String,
    pub other_security_group: String,
    pub node_role: String,
    pub node_role_arn: String,
    pub instance_profile: String,
    pub controller_role_arn: String,
    pub denied_role_arn: String,
    pub external_id: String,
    pub pod_role_arn: String,
    pub guest: Guest,
    pub pod_identity: PodIdentity,
    /// May assume the two roles, and nothing else.
    pub operator: Keys,
    /// May do everything.
    pub admin: Keys,
    /// For Karpenter's own controller; its policy allows everything.
    pub karpenter: Keys,
    pub queue: String,
    pub queue_url: String,
    pub price_date: String,
}

/// Another account, in which there is nothing but machines.
#[derive(Debug, Clone, Deserialize)]
pub struct Guest {
    pub account: String,
    pub vpc: String,
    /// Subnet by zone.
    pub subnets: BTreeMap<String, String>,
    pub security_groups: Vec<String>,
    pub node_role: String,
    /// The role to assume there; it requires the same external id.
    pub role_arn: String,
}

/// Static credentials.
#[derive(Debug, Clone, Deserialize)]
pub struct Keys {
    pub access_key_id: String,
    pub secret_access_key: String,
}

/// Where a pod gets its credentials from.
#[derive(Debug, Clone, Deserialize)]
pub struct PodIdentity {
    pub url: String,
    pub token: String,
}

/// An instance as the control endpoint lists it, also after its end.
#[derive(Debug, Clone, Deserialize)]
pub struct Instance {
    pub id: String,
    pub account: String,
    #[serde(rename = "type")]
    pub instance_type: String,
    pub zone: String,
    pub state: String,
    pub capacity_type: String,
    /// Dollars, at the prices of now.
    pub price_per_hour: Option<f64>,
    pub subnet: String,
    pub vpc: String,
    pub security_groups: Vec<String>,
    pub image: String,
    pub tags: BTreeMap<String, String>,
    pub private_dns_name: String,
    pub launch_template: Option<String>,
    /// The capacity reservation it was launched into.
    pub reservation: Option<String>,
    pub instance_profile: Option<String>,
    pub user_data: String,
    /// The name of its Node, once it has joined.
    pub node: Option<String>,
    /// Why its kubelet never joins.
    pub join_error: Option<String>,
}

/// A line of the request log.
#[derive(Debug, Clone, Deserialize)]
pub struct Request {
    pub number: u64,
    pub at: String,
    pub seconds: f64,
    /// Service and action as IAM names them: `ec2:CreateFleet`.
    pub action: String,
    pub mutating: bool,
    pub dry_run: bool,
    pub principal: String,
    /// None unless the caller is an assumed role.
    pub session: Option<Session>,
    pub resources: Vec<String>,
    /// Tags by resource type; the empty type for calls whose tags have none.
    pub request_tags: BTreeMap<String, BTreeMap<String, String>>,
    /// Only of mutating calls.
    pub parameters: Value,
    /// The code that was answered.
    pub error: Option<String>,
    /// False when the call was made and its answer was lost.
    pub answered: bool,
}

impl Request {
    /// Refused because there were too many.
    pub fn is_throttled(&self) -> bool {
        matches!(
            self.error.as_deref(),
            Some("RequestLimitExceeded" | "ThrottlingException" | "Throttling")
        )
    }

    /// A request for machines that was let through.
    pub fn is_launch(&self) -> bool {
        self.action == "ec2:CreateFleet" && !self.dry_run && !self.is_throttled()
    }

    /// When it arrived, to the millisecond.
    pub fn arrived(&self) -> Result<Timestamp> {
        self.at.parse().with_context(|| self.at.clone())
    }
}

/// The session of an assumed role.
#[derive(Debug, Clone, Deserialize)]
pub struct Session {
    pub role_arn: String,
    pub external_id: Option<String>,
    /// The inline session policy as it was sent.
    pub policy: Option<String>,
    pub tags: BTreeMap<String, String>,
}

/// What has not been cleaned up, apart from what was seeded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Leftovers {
    pub instances: Vec<String>,
    pub launch_templates: Vec<String>,
    pub instance_profiles: Vec<String>,
    pub volumes: Vec<String>,
}

impl Cloud {
    /// Starts a stand-in, with further arguments of `python -m plimsoll_cloud`. With a kubeconfig its cluster is the one
    /// that instances join. The log is `<logs>/cloud.log`.
    pub async fn start(kubeconfig: Option<&Path>, logs: &Path, args: &[&str]) -> Result<Self> {
        let python = python::CLOUD.ensure().await?;
        fs::create_dir_all(logs)?;
        let log = logs.join("cloud.log");
        let mut all: Vec<OsString> = vec!["-m".into(), "plimsoll_cloud".into()];
        if let Some(kubeconfig) = kubeconfig {
            all.extend(["--kubeconfig".into(), kubeconfig.into()]);
        }
        all.extend(args.iter().map(Into::into));
        let environment = [("PYTHONPATH".to_owned(), package().into_os_string())];
        let begin = fs::metadata(&log).map_or(0, |log| log.len());
        let mut process = Process::spawn("cloud", &python, all, environment, &log)?;
        let deadline = Instant::now() + START_TIMEOUT;
        let ready = loop {
            if let Some(ready) = ready_line(&log, begin)? {
                break ready;
            }
            process.ensure_running()?;
            if Instant::now() >= deadline {
                bail!(
                    "the stand-in is not ready after {START_TIMEOUT:?}; the end of its log:\n{}",
                    process.log_tail(20)
                );
            }
            sleep(POLL).await;
        };
        let port = ready
            .endpoint
            .rsplit(':')
            .next()
            .and_then(|port| port.parse().ok())
            .with_context(|| format!("no port in the endpoint {}", ready.endpoint))?;
        Ok(Self { process, ready, port })
    }

    /// What is seeded.
    pub fn ready(&self) -> &Ready {
        &self.ready
    }

    /// The environment in which an AWS SDK finds the stand-in with these keys.
    pub fn environment(&self, keys: &Keys) -> Vec<(&'static str, String)> {
        vec![
            ("AWS_ENDPOINT_URL", self.ready.endpoint.clone()),
            ("AWS_REGION", self.ready.region.clone()),
            ("AWS_ACCESS_KEY_ID", keys.access_key_id.clone()),
            ("AWS_SECRET_ACCESS_KEY", keys.secret_access_key.clone()),
            ("AWS_EC2_METADATA_DISABLED", "true".to_owned()),
        ]
    }

    /// The environment of a controller that works for this cluster through the role it is meant to assume.
    pub fn controller_environment(&self) -> Vec<(&'static str, String)> {
        let ready = &self.ready;
        let mut all = self.environment(&ready.operator);
        all.extend([
            ("CLUSTER_NAME", ready.cluster.clone()),
            ("ASSUME_ROLE_ARN", ready.controller_role_arn.clone()),
            ("ASSUME_ROLE_EXTERNAL_ID", ready.external_id.clone()),
            ("INTERRUPTION_QUEUE", ready.queue.clone()),
        ]);
        all
    }

    /// The environment of Karpenter's own controller, which assumes no role.
    pub fn karpenter_environment(&self) -> Vec<(&'static str, String)> {
        let ready = &self.ready;
        let mut all = self.environment(&ready.karpenter);
        all.extend([
            ("CLUSTER_NAME", ready.cluster.clone()),
            ("CLUSTER_ENDPOINT", ready.cluster_endpoint.clone()),
            ("INTERRUPTION_QUEUE", ready.queue.clone()),
        ]);
        all
    }

    /// One request to the control endpoint, `path` being what follows `/_control/`; an error unless the answer is 200.
    pub async fn control<T: DeserializeOwned>(&self, method: Method, path: &str, body: &Value) -> Result<T> {
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let path = format!("/_control/{path}");
        let answer = controller::send(self.port, method.clone(), &path, &body).await?;
        ensure!(
            answer.status == 200,
            "{method} {path}: {} {}",
            answer.status,
            answer.body
        );
        serde_json::from_str(&answer.body).with_context(|| format!("{method} {path}: {}", answer.body))
    }

    /// One call of AWS's query protocol with these keys, and the body of its answer, also if that is an error. Nothing
    /// is signed: the stand-in looks only whose the key is.
    pub async fn call(&self, keys: &Keys, service: &str, parameters: &[(&str, &str)]) -> Result<String> {
        let escaped = |text: &str| {
            let bytes = text.bytes().map(|byte| format!("%{byte:02X}"));
            bytes.collect::<Vec<_>>().concat()
        };
        let form = parameters
            .iter()
            .map(|(name, value)| format!("{name}={}", escaped(value)));
        let form = form.collect::<Vec<_>>().join("&");
        let scope = format!(
            "{}/20260101/{}/{service}/aws4_request",
            keys.access_key_id, self.ready.region
        );
        let request = http::Request::post("/")
            .header(
                "Authorization",
                format!("AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=none"),
            )
            .header("Content-Type", "application/x-www-form-urlencoded");
        let answer = controller::send_request(self.port, request.body(form)?).await?;
        Ok(answer.body)
    }

    /// Replaces the policy of the role that controllers assume.
    pub async fn set_controller_policy(&self, statements: &Value) -> Result<()> {
        let role = self.ready.controller_role_arn.rsplit('/').next();
        let policy = serde_json::json!({ "Version": "2012-10-17", "Statement": statements });
        let body = serde_json::json!({ "role": role, "policy": policy });
        self.control::<Value>(Method::PUT, "role-policy", &body)
            .await
            .map(drop)
    }

    /// Sets the named faults and leaves the others.
    pub async fn set_faults(&self, faults: &Value) -> Result<()> {
        self.control::<Value>(Method::PUT, "faults", faults)
            .await
            .map(drop)
    }

    /// Replaces all rules of the capacity pools.
    pub async fn set_capacity(&self, rules: &Value) -> Result<()> {
        self.control::<Value>(Method::PUT, "capacity", rules)
            .await
            .map(drop)
    }

    /// Sends the message of `kind` for these instances; see the README for the kinds.
    pub async fn interrupt(&self, kind: &str, instances: &[String], terminate_after: Duration) -> Result<()> {
        let body = serde_json::json!({
            "kind": kind,
            "instances": instances,
            "terminate_after_seconds": terminate_after.as_secs_f64(),
        });
        self.control::<Value>(Method::POST, "interruptions", &body)
            .await
            .map(drop)
    }

    /// All instances so far, in the order of their launch.
    pub async fn instances(&self) -> Result<Vec<Instance>> {
        self.control(Method::GET, "instances", &Value::Null).await
    }

    /// The request log after line `number`.
    pub async fn requests(&self, number: u64) -> Result<Vec<Request>> {
        self.control(Method::GET, &format!("requests?after={number}"), &Value::Null)
            .await
    }

    /// What has not been cleaned up.
    pub async fn leftovers(&self) -> Result<Leftovers> {
        self.control(Method::GET, "leftovers", &Value::Null).await
    }

    /// An error with the end of its log if it has ended by itself.
    pub fn ensure_running(&mut self) -> Result<()> {
        self.process.ensure_running()
    }

    /// Memory and processor time so far.
    pub fn usage(&self) -> Result<Usage> {
        self.process.usage()
    }

    pub fn log_tail(&self, lines: usize) -> String {
        self.process.log_tail(lines)
    }
}

/// The directory of the Python package.
pub fn package() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("cloud")
}

/// The ready line, if it is in the log after `begin` bytes: the only line that is a JSON object.
fn ready_line(log: &Path, begin: u64) -> Result<Option<Ready>> {
    let bytes = fs::read(log)?;
    let begin = usize::try_from(begin)?.min(bytes.len());
    let text = String::from_utf8_lossy(&bytes[begin..]);
    // The last line may not have been written to its end yet.
    let Some((whole, _)) = text.rsplit_once('\n') else {
        return Ok(None);
    };
    whole
        .lines()
        .find(|line| line.starts_with("{\""))
        .map(|line| serde_json::from_str(line).with_context(|| format!("not a ready line: {line}")))
        .transpose()
}
