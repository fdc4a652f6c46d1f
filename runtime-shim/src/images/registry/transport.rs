//! HTTP clients, one for each way to set up TLS.

use std::{collections::HashMap, sync::Mutex, time::Duration};

use reqwest::{Certificate, Client, Identity, redirect};

use super::hosts::TlsSettings;
use crate::table::lock;

/// Idle connections to a registry that are kept for the next image.
const IDLE_CONNECTIONS: usize = 8;
const IDLE_LIMIT: Duration = Duration::from_secs(30);
/// More than these are forgotten: certificates that changed, mostly.
const MAX_CLIENTS: usize = 32;

/// Clients by their settings, so that connections are used again.
#[derive(Debug)]
pub(super) struct Transport {
    connect_limit: Duration,
    silence_limit: Duration,
    clients: Mutex<HashMap<Key, Client>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    tls: TlsSettings,
    is_loopback: bool,
}

impl Transport {
    pub(super) fn new(connect_limit: Duration, silence_limit: Duration) -> Self {
        Self {
            connect_limit,
            silence_limit,
            clients: Mutex::default(),
        }
    }

    /// The client for a host; what is wrong with its certificates.
    pub(super) fn client(&self, tls: &TlsSettings, is_loopback: bool) -> Result<Client, String> {
        let key = Key {
            tls: tls.clone(),
            is_loopback,
        };
        if let Some(known) = lock(&self.clients).get(&key) {
            return Ok(known.clone());
        }
        let client = self.build(&key)?;
        let mut clients = lock(&self.clients);
        if clients.len() >= MAX_CLIENTS {
            clients.clear();
        }
        clients.insert(key, client.clone());
        Ok(client)
    }

    fn build(&self, key: &Key) -> Result<Client, String> {
        let mut builder = Client::builder()
            .user_agent(concat!("clone8s/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(self.connect_limit)
            .read_timeout(self.silence_limit)
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .pool_idle_timeout(IDLE_LIMIT)
            .tcp_nodelay(true)
            // By hand: where they lead must not see credentials and the host's own headers.
            .redirect(redirect::Policy::none())
            .referer(false)
            // One connection for each layer gives more than one for all.
            .http1_only();
        for pem in &key.tls.authorities {
            let certificates = Certificate::from_pem_bundle(pem).map_err(|error| format!("ca: {error}"))?;
            if certificates.is_empty() {
                return Err("ca: has no certificate in PEM form".into());
            }
            builder = builder.tls_certs_merge(certificates);
        }
        if let Some(pem) = &key.tls.identity {
            let identity = Identity::from_pem(pem).map_err(|_| {
                "client: must be a certificate and its key in PEM form, in one file or as a pair".to_owned()
            })?;
            builder = builder.identity(identity);
        }
        if key.tls.skip_verify {
            builder = builder.tls_danger_accept_invalid_certs(true);
        }
        if key.is_loopback {
            // A proxy's loopback is another.
            builder = builder.no_proxy();
        }
        builder
            .build()
            .map_err(|error| clone8s_daemon::supervisor::chain(&error))
    }
}
