//! Which cluster a command speaks to, and how.

use std::{error::Error, net::IpAddr};

use anyhow::anyhow;
use http::Uri;
use hyper_util::client::proxy::matcher::Matcher;
use kube::{
    Config as KubeConfig,
    config::{InferConfigError, KubeConfigOptions, Kubeconfig},
};

/// The cluster of this context; without one that of the kubeconfig's current context, or the one this runs in.
pub(crate) async fn kubeconfig(context: Option<&str>) -> anyhow::Result<KubeConfig> {
    let mut config = match context {
        Some(name) => {
            let options = KubeConfigOptions {
                context: Some(name.to_owned()),
                ..KubeConfigOptions::default()
            };
            let found = KubeConfig::from_kubeconfig(&options).await;
            found.map_err(|why| {
                anyhow!("--context {name}: {why}; `kubectl config get-contexts` lists those there are")
            })?
        }
        None => KubeConfig::infer().await.map_err(no_cluster)?,
    };
    if let Ok(kubeconfig) = Kubeconfig::read() {
        config.proxy_url = proxy(&kubeconfig, context, &config.cluster_url);
    }
    Ok(config)
}

fn no_cluster(error: InferConfigError) -> anyhow::Error {
    // Its words hold those of its cause, and those the words of theirs.
    let why = error
        .source()
        .map_or_else(|| error.to_string(), ToString::to_string);
    anyhow!(
        "no cluster: {why}; set KUBECONFIG and choose one of its contexts (--context NAME), or run inside one with a \
         service account"
    )
}

/// The proxy that kubectl takes: that of the kubeconfig for this cluster, else that of HTTPS_PROXY but for NO_PROXY and this
/// machine. kube holds NO_PROXY against the proxy's own name.
fn proxy(kubeconfig: &Kubeconfig, context: Option<&str>, cluster: &Uri) -> Option<Uri> {
    let set = |value: String| Some(value).filter(|value| !value.is_empty());
    if let Some(own) = own_proxy(kubeconfig, context).and_then(set) {
        return own.parse().ok();
    }
    let names = ["HTTPS_PROXY", "https_proxy"];
    let of_environment = names.iter().find_map(|name| set(std::env::var(name).ok()?))?;
    let host = cluster.host().unwrap_or_default().trim_matches(['[', ']']);
    let is_here = host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
    if is_here || Matcher::from_env().intercept(cluster).is_none() {
        return None;
    }
    of_environment.parse().ok()
}

/// `proxy-url` of the cluster of a context.
fn own_proxy(kubeconfig: &Kubeconfig, context: Option<&str>) -> Option<String> {
    let context = context.or(kubeconfig.current_context.as_deref())?;
    let context = kubeconfig
        .contexts
        .iter()
        .find(|c| c.name == context)?
        .context
        .as_ref()?;
    let cluster = kubeconfig.clusters.iter().find(|c| c.name == context.cluster)?;
    cluster.cluster.as_ref()?.proxy_url.clone()
}
