//! A real etcd of one member, and how a member of several is started.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use etcd_client::{Certificate, Client, ConnectOptions, Identity, TlsOptions};

use crate::{
    Process, Sandbox,
    pki::{Ca, Pair},
    process::free_port,
    wait,
};

/// One etcd member; with TLS, it takes only clients with a certificate of its CA.
#[derive(Debug)]
pub struct Etcd {
    pub process: Process,
    endpoint: String,
    data: PathBuf,
    tls: Option<(Ca, Pair)>,
}

impl Etcd {
    /// With TLS and client certificates.
    pub async fn start(sandbox: &Sandbox) -> Self {
        let ca = Ca::new(&sandbox.make_dir("etcd-pki"), "etcd test root").expect("a CA");
        let client = ca.issue("client").expect("a certificate");
        Self::launch(sandbox, Some((ca, client)), &[]).await
    }

    pub async fn plain(sandbox: &Sandbox) -> Self {
        Self::with(sandbox, &[]).await
    }

    /// A plain one, with flags of etcd's.
    pub async fn with(sandbox: &Sandbox, flags: &[&str]) -> Self {
        Self::launch(sandbox, None, flags).await
    }

    async fn launch(sandbox: &Sandbox, tls: Option<(Ca, Pair)>, flags: &[&str]) -> Self {
        let scheme = if tls.is_some() { "https" } else { "http" };
        let endpoint = format!("{scheme}://127.0.0.1:{}", free_port());
        let urls = Urls {
            client: endpoint.clone(),
            // No other member exists, but etcd wants an address for them.
            peer: format!("http://127.0.0.1:{}", free_port()),
        };
        let cluster = format!("test={}", urls.peer);
        let process = sandbox.process("etcd", "etcd");
        let data = sandbox.dir().join("etcd");
        let mut process = member(process, "test", &data, &urls, &cluster);
        for flag in flags {
            process = process.arg(flag);
        }
        if let Some((ca, _)) = &tls {
            let server = ca.issue("server").expect("a certificate");
            process = process
                .arg("--client-cert-auth")
                .arg("--trusted-ca-file")
                .arg(ca.certificate_file())
                .arg("--cert-file")
                .arg(server.certificate_file)
                .arg("--key-file")
                .arg(server.key_file);
        }
        let mut etcd = Self {
            process: process.started(),
            endpoint,
            data,
            tls,
        };
        etcd.ready().await;
        etcd
    }

    /// `https://127.0.0.1:<port>`.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The root CA of the server, for an etcd with TLS.
    pub fn ca(&self) -> &Ca {
        &self.tls.as_ref().expect("this etcd has TLS").0
    }

    /// A certificate that the server takes, for an etcd with TLS.
    pub fn client_pair(&self) -> &Pair {
        &self.tls.as_ref().expect("this etcd has TLS").1
    }

    /// A client of our own, beside the apiserver's.
    pub async fn client(&self) -> anyhow::Result<Client> {
        let options = self.tls.as_ref().map(|(ca, pair)| {
            let tls = TlsOptions::new()
                .ca_certificate(Certificate::from_pem(ca.certificate()))
                .identity(Identity::from_pem(&pair.certificate, &pair.key));
            ConnectOptions::new().with_tls(tls)
        });
        Client::connect([&self.endpoint], options)
            .await
            .context("connect to etcd")
    }

    pub async fn ready(&mut self) {
        wait::until("etcd answers", || async {
            self.client().await?.status().await?;
            Ok(())
        })
        .await;
    }

    pub async fn start_again(&mut self) {
        self.process.start().expect("etcd starts");
        self.ready().await;
    }

    /// Kills it and starts one that holds nothing in its place.
    pub async fn start_empty(&mut self) {
        self.process.kill();
        std::fs::remove_dir_all(&self.data).expect("its data is removed");
        self.start_again().await;
    }
}

/// Where one member listens.
#[derive(Debug)]
pub struct Urls {
    pub client: String,
    pub peer: String,
}

/// The arguments of one member of a cluster, which is given as `<name>=<peer url>,…`.
pub fn member(process: Process, name: &str, data: &Path, urls: &Urls, cluster: &str) -> Process {
    let Urls { client, peer } = urls;
    process
        .args(["--name", name, "--logger", "zap", "--log-level", "error"])
        .arg("--data-dir")
        .arg(data)
        .args(["--listen-client-urls", client, "--advertise-client-urls", client])
        .args(["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer])
        .args(["--initial-cluster", cluster])
        // So that a watch tells its progress within the time of a test.
        .arg("--experimental-watch-progress-notify-interval=200ms")
}
