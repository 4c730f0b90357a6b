//! Health, readiness, metrics and the log level, over HTTP.

use std::{
    fmt,
    net::{Ipv4Addr, SocketAddr},
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
    axum::serve(TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await?, routes).await
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
    axum::serve(TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await?, routes).await
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
    if !peer.ip().is_loopback() {
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
