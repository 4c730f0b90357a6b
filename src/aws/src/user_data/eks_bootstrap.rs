//! AL2: a shell script that calls `/etc/eks/bootstrap.sh`.

use super::{
    Bootstrap, UserDataError, cluster_dns, kubelet_flags,
    mime::{self, Part},
};

const SHELL: &str = "text/x-shellscript; charset=\"us-ascii\"";

pub(super) fn user_data(bootstrap: &Bootstrap<'_>) -> Result<String, UserDataError> {
    let mut parts = match bootstrap.custom {
        None => Vec::new(),
        Some(custom) if mime::is_multipart(custom) => mime::parts(custom)?,
        Some(custom) => vec![Part::new(SHELL, custom)],
    };
    parts.push(Part::new(SHELL, &script(bootstrap)));
    Ok(mime::multipart(&parts))
}

fn script(bootstrap: &Bootstrap<'_>) -> String {
    let mut arguments = vec![
        format!("'{}'", bootstrap.cluster_name),
        format!("--apiserver-endpoint '{}'", bootstrap.endpoint),
        format!("--b64-cluster-ca '{}'", bootstrap.ca_bundle),
    ];
    let dns = cluster_dns(bootstrap).first();
    if dns.is_some_and(|ip| ip.contains(':')) {
        arguments.push("--ip-family ipv6".into());
    }
    if let Some(ip) = dns {
        arguments.push(format!("--dns-cluster-ip '{ip}'"));
    }
    arguments.push("--use-max-pods false".into());
    let flags = kubelet_flags::flags(bootstrap).join(" ");
    arguments.push(format!("--kubelet-extra-args '{flags}'"));
    if bootstrap.raid0 {
        arguments.push("--local-disks raid0".into());
    }
    format!(
        "#!/bin/bash -xe\nexec > >(tee /var/log/user-data.log|logger -t user-data -s 2>/dev/console) 2>&1\n\
         /etc/eks/bootstrap.sh {}\n",
        arguments.join(" ")
    )
}
