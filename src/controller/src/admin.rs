//! Health, readiness, metrics and the log level, over HTTP.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use axum::{
    Router,
    extract::{ConnectInfo, State},
    http::{StatusCode, header},
    response::IntoResponse,
    routing::{get, put},
};
use tokio::net::TcpListener;

use crate::{metrics::Metrics, watch::Sync};

/// Changes what is logged while the process runs.
#[derive(Clone)]
pub struct LogFilter(pub Arc<dyn Fn(&str) -> Result<(), String> + Send + std::marker::Sync>);

impl fmt::Debug for LogFilter {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("LogFilter")
    }
}

/// Liveness and readiness. Ready means: every kind has been read once.
pub(crate) async fn serve_health(port: u16, sync: Arc<Sync>) -> std::io::Result<()> {
    let routes = Router::new()
        .route("/healthz", get(async || "ok"))
        .route("/readyz", get(ready))
        .with_state(sync);
    axum::serve(listen(port).await?, routes).await
}

/// On every address of the pod: where the machine has IPv6, such a socket takes IPv4 too.
async fn listen(port: u16) -> std::io::Result<TcpListener> {
    let any: [IpAddr; 2] = [Ipv6Addr::UNSPECIFIED.into(), Ipv4Addr::UNSPECIFIED.into()];
    TcpListener::bind(any.map(|address| SocketAddr::new(address, port)).as_slice()).await
}

async fn ready(State(sync): State<Arc<Sync>>) -> (StatusCode, String) {
    let missing = sync.missing();
    if missing.is_empty() {
        (StatusCode::OK, "ok".into())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, missing.join("\n"))
    }
}

pub(crate) async fn serve_metrics(port: u16, metrics: Metrics, log: LogFilter) -> std::io::Result<()> {
    let routes = Router::new()
        .route("/metrics", get(scrape))
        .with_state(metrics)
        .route("/log-level", put(set_log_level).with_state(log));
    let routes = routes.into_make_service_with_connect_info::<SocketAddr>();
    axum::serve(listen(port).await?, routes).await
}

async fn scrape(State(metrics): State<Metrics>) -> impl IntoResponse {
    match metrics.text() {
        Ok(text) => {
            let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            (StatusCode::OK, [(header::CONTENT_TYPE, content_type)], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// Only from inside the pod, which is where `kubectl port-forward` comes from: the port is open to whoever scrapes.
async fn set_log_level(
    State(log): State<LogFilter>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    filter: String,
) -> (StatusCode, String) {
    // A peer that speaks IPv4 to an IPv6 socket has a mapped address.
    if !peer.ip().to_canonical().is_loopback() {
        let fix = "the log level is set through kubectl port-forward\n";
        return (StatusCode::FORBIDDEN, fix.into());
    }
    match (log.0)(filter.trim()) {
        Ok(()) => {
            tracing::info!(filter = filter.trim(), "log level changed");
            (StatusCode::OK, "ok\n".into())
        }
        Err(why) => (StatusCode::BAD_REQUEST, format!("{why}\n")),
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpStream;

    use super::*;

    #[tokio::test]
    async fn answers_by_ipv4_and_where_there_is_ipv6_by_that() {
        let listener = listen(0).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut loopback: Vec<IpAddr> = vec![Ipv4Addr::LOCALHOST.into()];
        if TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).await.is_ok() {
            loopback.push(Ipv6Addr::LOCALHOST.into());
        }
        for address in loopback {
            TcpStream::connect((address, port)).await.unwrap();
            let (_, peer) = listener.accept().await.unwrap();
            assert_eq!(peer.ip().to_canonical(), address);
        }
    }

    #[tokio::test]
    async fn only_the_pod_itself_sets_the_log_level() {
        let log = LogFilter(Arc::new(|_: &str| Ok(())));
        for (peer, expected) in [
            ("127.0.0.1", StatusCode::OK),
            ("::ffff:127.0.0.1", StatusCode::OK),
            ("::1", StatusCode::OK),
            ("10.0.0.7", StatusCode::FORBIDDEN),
            ("::ffff:10.0.0.7", StatusCode::FORBIDDEN),
            ("fd00::7", StatusCode::FORBIDDEN),
        ] {
            let from = ConnectInfo(SocketAddr::new(peer.parse().unwrap(), 9));
            let (status, _) = set_log_level(State(log.clone()), from, "info".into()).await;
            assert_eq!(status, expected, "{peer}");
        }
    }
}
