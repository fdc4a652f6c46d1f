//! Where the apiserver is and how to prove who we are.

use std::{fs, io, path::PathBuf};

use anyhow::{Result, bail};
use clap::Args;
use clone8s_daemon::{channel::Channel, endpoint::Endpoint, unix};

/// The socket that `c8s up` serves.
pub const DEFAULT_SOCKET: &str = "unix:///run/clone8s/apiserver.sock";

const HEADING: &str = "Connection";

#[derive(Debug, Clone, Args)]
pub struct ConnectionArgs {
    /// The apiserver: unix:///PATH, or https://HOST:PORT with --ca, --cert and --key
    #[arg(
        long,
        global = true,
        env = "CLONE8S_SERVER",
        default_value = DEFAULT_SOCKET,
        value_name = "URL",
        help_heading = HEADING
    )]
    pub server: String,
    /// PEM file of the cluster's root CA, for https
    #[arg(long, global = true, env = "CLONE8S_CA", value_name = "FILE", help_heading = HEADING)]
    pub ca: Option<PathBuf>,
    /// PEM file of the client certificate, for https
    #[arg(
        long,
        global = true,
        env = "CLONE8S_CERT",
        value_name = "FILE",
        help_heading = HEADING,
        requires = "key"
    )]
    pub cert: Option<PathBuf>,
    /// PEM file of the client certificate's key, for https
    #[arg(
        long,
        global = true,
        env = "CLONE8S_KEY",
        value_name = "FILE",
        help_heading = HEADING,
        requires = "cert"
    )]
    pub key: Option<PathBuf>,
}

impl ConnectionArgs {
    /// A channel to the server. A unix socket is looked at now, everything else is met by the first call.
    pub fn connect(&self) -> Result<Channel> {
        if let Some(path) = self.server.strip_prefix("unix://") {
            check_socket(path, fs::metadata(path))?;
            return Ok(unix::channel(path).into());
        }
        let endpoint = Endpoint {
            server: self.server.clone(),
            ca: self.ca.clone(),
            cert: self.cert.clone(),
            key: self.key.clone(),
        };
        Ok(endpoint.channel()?)
    }
}

fn check_socket<T>(path: &str, looked: io::Result<T>) -> Result<()> {
    match looked {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => bail!(
            "{path}: {error}: the socket is root's alone: try sudo, or --server https://HOST:PORT with a certificate"
        ),
        Err(_) => bail!("no apiserver at {path}: start one with `c8s up`, or name another with --server"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connect(server: &str) -> Result<Channel> {
        ConnectionArgs {
            server: server.into(),
            ca: None,
            cert: None,
            key: None,
        }
        .connect()
    }

    #[test]
    fn a_missing_socket_says_how_to_get_one() {
        let error = connect("unix:///nowhere/api.sock").unwrap_err().to_string();
        assert_eq!(
            error,
            "no apiserver at /nowhere/api.sock: start one with `c8s up`, or name another with --server"
        );
    }

    #[test]
    fn a_socket_that_only_root_may_see_is_not_taken_for_a_missing_one() {
        let looked: io::Result<()> = Err(io::ErrorKind::PermissionDenied.into());
        let error = check_socket("/run/clone8s/apiserver.sock", looked)
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("/run/clone8s/apiserver.sock: permission denied") && error.contains("try sudo"),
            "{error}"
        );
    }

    #[test]
    fn https_without_a_root_is_refused() {
        assert!(
            connect("https://127.0.0.1:7443")
                .unwrap_err()
                .to_string()
                .contains("needs --ca")
        );
    }

    #[test]
    fn other_schemes_are_refused() {
        assert!(
            connect("http://127.0.0.1:7443")
                .unwrap_err()
                .to_string()
                .contains("must be unix:///PATH")
        );
    }
}
