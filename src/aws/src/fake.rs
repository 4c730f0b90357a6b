//! AWS as unit tests need it: sessions that can be refused, and answers that are told beforehand.

use std::{
    collections::{BTreeMap, VecDeque},
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use aws_config::{BehaviorVersion, SdkConfig, retry::RetryConfig};
use aws_credential_types::{Credentials, provider::SharedCredentialsProvider};
use aws_smithy_runtime_api::client::{
    http::{HttpConnector, HttpConnectorFuture, SharedHttpConnector, http_client_fn},
    orchestrator::{HttpRequest, HttpResponse},
    result::ConnectorError,
};
use aws_smithy_types::body::SdkBody;
use aws_types::region::Region;

use jiff::Timestamp;
use kube::{Client, client::Body};
use plimsoll_api::ec2nodeclass::EC2NodeClass;
use serde_json::{Value, json};

use crate::{cluster::Cluster, credentials::Identity, renewal::Renewal, settings::Settings};

/// Answers as STS, which opens the sessions `token-1`, `token-2` and so on, and as EC2, which refuses some and shows
/// nothing unless it is told to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Aws(Arc<Mutex<Books>>);

#[derive(Debug, Default)]
struct Books {
    sessions: usize,
    /// No more of them.
    closed: bool,
    /// When those end that are opened now.
    end: Option<String>,
    /// Sessions up to this one are refused with the code.
    refused: Option<(usize, &'static str)>,
    /// By action, what was asked last.
    sent: BTreeMap<String, String>,
    /// A session whose calls are never answered.
    silent: Option<&'static str>,
    /// Tokens in the order in which they reached EC2.
    seen: Vec<String>,
    /// The next answers of EC2 by action.
    next: BTreeMap<&'static str, VecDeque<(u16, String)>>,
}

impl Aws {
    fn books(&self) -> MutexGuard<'_, Books> {
        self.0.lock().unwrap()
    }

    fn answer(&self, request: &HttpRequest) -> (u16, String) {
        let mut books = self.books();
        let body = String::from_utf8(request.body().bytes().unwrap_or_default().to_vec()).unwrap();
        let of_json = request.headers().get("x-amz-target");
        let of_json = of_json.and_then(|target| target.rsplit('.').next());
        let of_query = body.split('&').find_map(|pair| pair.strip_prefix("Action="));
        let action = of_json.or(of_query).unwrap_or_default();
        if action == "AssumeRole" && books.closed {
            let error = "<Error><Code>AccessDenied</Code><Message>not trusted</Message></Error>";
            return (403, format!("<ErrorResponse>{error}</ErrorResponse>"));
        }
        if action == "AssumeRole" {
            books.sessions += 1;
            let end = books.end.as_deref().unwrap_or("2100-01-01T00:00:00Z");
            let answer = format!(
                "<AssumeRoleResponse><AssumeRoleResult><Credentials><AccessKeyId>a</AccessKeyId>\
                 <SecretAccessKey>s</SecretAccessKey><SessionToken>token-{}</SessionToken>\
                 <Expiration>{end}</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>",
                books.sessions
            );
            return (200, answer);
        }
        let token = request.headers().get("x-amz-security-token");
        let token = token.unwrap_or_default().to_owned();
        books.sent.insert(action.to_owned(), body.clone());
        let session: usize = token.trim_start_matches("token-").parse().unwrap_or(0);
        books.seen.push(token);
        match books.refused {
            Some((last, code)) if session <= last => (403, refusal(code)),
            _ => match books.next.get_mut(action).and_then(VecDeque::pop_front) {
                Some(told) => told,
                None => (200, format!("<{action}Response></{action}Response>")),
            },
        }
    }

    /// Opens no more sessions.
    pub(crate) fn close(&self) {
        self.books().closed = true;
    }

    /// Sessions that are opened from now on end then.
    pub(crate) fn end_sessions(&self, at: Timestamp) {
        self.books().end = Some(at.to_string());
    }

    pub(crate) fn refuse(&self, last: usize, code: &'static str) {
        self.books().refused = Some((last, code));
    }

    pub(crate) fn silence(&self, session: &'static str) {
        self.books().silent = Some(session);
    }

    pub(crate) fn seen(&self) -> Vec<String> {
        std::mem::take(&mut self.books().seen)
    }

    /// What was asked when `action` was called last.
    pub(crate) fn last(&self, action: &str) -> String {
        self.books().sent.get(action).cloned().unwrap_or_default()
    }

    /// The next call of `action` is answered with this content.
    pub(crate) fn next(&self, action: &'static str, content: &str) {
        self.tell(
            action,
            200,
            format!("<{action}Response>{content}</{action}Response>"),
        );
    }

    /// The next call of `action`, of a service that speaks JSON, is answered with this.
    pub(crate) fn next_json(&self, action: &'static str, content: &Value) {
        self.tell(action, 200, content.to_string());
    }

    /// The next call of `action` is refused with this code.
    pub(crate) fn next_refused(&self, action: &'static str, code: &str) {
        self.tell(action, 400, refusal(code));
    }

    fn tell(&self, action: &'static str, status: u16, body: String) {
        let mut books = self.books();
        books.next.entry(action).or_default().push_back((status, body));
    }

    /// Who was given keys, and no role.
    pub(crate) fn identity(&self) -> Identity {
        let connector = self.clone();
        let renewal = Renewal::new(Duration::from_mins(5));
        let keys = Credentials::new("a", "s", None, None, "test");
        let config = SdkConfig::builder()
            .behavior_version(BehaviorVersion::v2026_01_12())
            .region(Region::from_static("us-east-1"))
            .credentials_provider(SharedCredentialsProvider::new(keys))
            .identity_cache(renewal.clone())
            .retry_config(RetryConfig::adaptive())
            .http_client(http_client_fn(move |_, _| {
                SharedHttpConnector::new(connector.clone())
            }))
            .build();
        Identity::of(config, renewal)
    }
}

impl HttpConnector for Aws {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let session = request.headers().get("x-amz-security-token");
        if session.is_some() && session == self.books().silent {
            return HttpConnectorFuture::new(std::future::pending());
        }
        let (status, body) = self.answer(&request);
        let response = HttpResponse::new(status.try_into().unwrap(), SdkBody::from(body));
        HttpConnectorFuture::ready(Ok::<_, ConnectorError>(response))
    }
}

fn refusal(code: &str) -> String {
    let error = format!("<Error><Code>{code}</Code><Message>no</Message></Error>");
    format!("<Response><Errors>{error}</Errors><RequestID>r</RequestID></Response>")
}

/// A Kubernetes in which there is nothing but these classes.
pub(crate) fn kubernetes(classes: &[EC2NodeClass]) -> Client {
    let classes = classes.to_vec();
    Client::new(
        tower::service_fn(move |request: http::Request<Body>| {
            let name = request.uri().path().rsplit('/').next().unwrap_or_default();
            let named = classes.iter().find(|c| c.metadata.name.as_deref() == Some(name));
            let (status, object) = match named {
                Some(class) => (200, json!(class)),
                None if name == "ec2nodeclasses" => (
                    200,
                    json!({ "apiVersion": "karpenter.k8s.aws/v1", "kind": "EC2NodeClassList", "metadata": {}, "items": classes }),
                ),
                None => (
                    404,
                    json!({ "kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404 }),
                ),
            };
            let mut answer = http::Response::new(Body::from(object.to_string().into_bytes()));
            *answer.status_mut() = status.try_into().unwrap();
            std::future::ready(Ok::<_, Infallible>(answer))
        }),
        "default",
    )
}

/// Settings for the cluster `prod`, with an external id for its roles.
pub(crate) fn settings() -> Settings {
    Settings {
        cluster_name: "prod".into(),
        cluster_endpoint: None,
        cluster_ca_bundle: None,
        vpc_id: None,
        assume_role_arn: None,
        assume_role_external_id: Some("id".into()),
        assume_role_duration: Duration::from_hours(1),
        isolated_vpc: false,
        vm_memory_overhead_percent: 0.075,
        reserved_enis: 0,
        prefix_delegation: false,
        interruption_queue: None,
        reserved_capacity: true,
        disable_dry_run: false,
        ami_refresh_interval: Duration::from_mins(5),
        subnet_refresh_interval: Duration::from_mins(1),
    }
}

/// The cluster `prod` in `vpc-1`.
pub(crate) fn cluster() -> Cluster {
    Cluster {
        name: "prod".into(),
        region: "us-east-1".into(),
        vpc_id: "vpc-1".into(),
        endpoint: String::new(),
        ca_bundle: String::new(),
        service_cidr: None,
    }
}
