//! A real image registry on the loopback.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Weak},
};

use anyhow::Context as _;
use tokio::{net::TcpStream, sync::Mutex};

use crate::{Image, Process, Sandbox, command, pki::Ca, process::free_port, wait};

/// Plain HTTP or TLS, with or without a password.
#[derive(Debug)]
pub struct Registry {
    pub process: Process,
    address: String,
    scratch: PathBuf,
    credentials: Option<(&'static str, &'static str)>,
    /// What a client shows, in the form that docker and skopeo have it.
    client_certificates: Option<PathBuf>,
    _sandbox: Sandbox,
}

/// How a registry is set up.
#[derive(Debug, Clone, Copy, Default)]
struct Setup<'a> {
    credentials: Option<(&'static str, &'static str)>,
    tls: Option<&'a Ca>,
    asks_for_certificates: bool,
}

impl Registry {
    pub async fn start(sandbox: &Sandbox) -> Self {
        Self::launch(sandbox, Setup::default()).await
    }

    /// Takes only clients that know the name and the password.
    pub async fn with_credentials(sandbox: &Sandbox, user: &'static str, password: &'static str) -> Self {
        let setup = Setup {
            credentials: Some((user, password)),
            ..Setup::default()
        };
        Self::launch(sandbox, setup).await
    }

    /// Speaks TLS with a certificate of this authority.
    pub async fn with_tls(sandbox: &Sandbox, ca: &Ca) -> Self {
        let setup = Setup {
            tls: Some(ca),
            ..Setup::default()
        };
        Self::launch(sandbox, setup).await
    }

    /// Speaks TLS, and only with clients that have a certificate of this authority.
    pub async fn with_client_certificates(sandbox: &Sandbox, ca: &Ca) -> Self {
        let setup = Setup {
            tls: Some(ca),
            asks_for_certificates: true,
            ..Setup::default()
        };
        Self::launch(sandbox, setup).await
    }

    /// The registry that the tests of this binary share while any of them runs, with [`Image::busybox`] in it as
    /// `busybox:1` and, one variable apart, as `busybox:2`. Unless told otherwise, these end when they are asked to: not
    /// every manifest can say that nothing minds a quick end.
    pub async fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<Registry>> = Mutex::const_new(Weak::new());
        let mut shared = SHARED.lock().await;
        if let Some(running) = shared.upgrade() {
            return running;
        }
        let registry = Self::start(&Sandbox::new()).await;
        for version in ["1", "2"] {
            let image = Image::busybox().env("VERSION", version).cmd([
                "/bin/sh",
                "-c",
                "trap 'kill $!; exit 0' TERM; sleep 2147483647 & wait",
            ]);
            image
                .push(&registry, &format!("busybox:{version}"))
                .expect("busybox is pushed");
        }
        let registry = Arc::new(registry);
        *shared = Arc::downgrade(&registry);
        registry
    }

    async fn launch(sandbox: &Sandbox, setup: Setup<'_>) -> Self {
        let dir = sandbox.make_dir("registry");
        let address = format!("127.0.0.1:{}", free_port());
        let auth = setup.credentials.map_or_else(String::new, |(user, password)| {
            let passwords = dir.join("htpasswd");
            fs::write(
                &passwords,
                format!("{user}:{}\n", bcrypt(password).expect("a hash")),
            )
            .expect("a file");
            format!(
                "auth:\n  htpasswd:\n    realm: test\n    path: {}\n",
                passwords.display()
            )
        });
        let mut client_certificates = None;
        let tls = setup.tls.map_or_else(String::new, |ca| {
            let pair = ca.issue("registry").expect("a certificate");
            let mut tls = format!(
                "  tls:\n    certificate: {}\n    key: {}\n",
                pair.certificate_file.display(),
                pair.key_file.display()
            );
            if setup.asks_for_certificates {
                // Writing to a string cannot fail.
                let _ = writeln!(tls, "    clientcas: [{}]", ca.certificate_file().display());
                let certificates = dir.join("client");
                fs::create_dir(&certificates).expect("a folder");
                let client = ca.issue("client").expect("a certificate");
                fs::write(certificates.join("client.cert"), &client.certificate).expect("a file");
                fs::write(certificates.join("client.key"), &client.key).expect("a file");
                client_certificates = Some(certificates);
            }
            tls
        });
        let config = format!(
            "version: 0.1\nlog:\n  level: warn\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {address}\n{tls}{auth}",
            dir.join("data").display()
        );
        fs::write(dir.join("config.yml"), config).expect("a file");
        let process = sandbox
            .process("registry", "docker-registry")
            .arg("serve")
            .arg(dir.join("config.yml"))
            .started();
        wait::until("the registry listens", || async {
            TcpStream::connect(&address).await?;
            Ok(())
        })
        .await;
        Self {
            process,
            address,
            scratch: dir,
            credentials: setup.credentials,
            client_certificates,
            _sandbox: sandbox.clone(),
        }
    }

    /// `127.0.0.1:<port>`, the first part of an image's reference.
    pub fn address(&self) -> &str {
        &self.address
    }

    pub fn image(&self, name_and_tag: &str) -> String {
        format!("{}/{name_and_tag}", self.address)
    }

    pub(crate) fn scratch(&self) -> &Path {
        &self.scratch
    }

    /// A folder with `client.cert` and `client.key`, where the registry asks for them.
    pub fn client_certificates(&self) -> Option<&Path> {
        self.client_certificates.as_deref()
    }

    pub fn credentials(&self) -> Option<(&'static str, &'static str)> {
        self.credentials
    }
}

/// The only hash that the registry takes.
fn bcrypt(password: &str) -> anyhow::Result<String> {
    // perl is part of every Debian. The salt may be known: so is the password.
    let script = "print crypt($ARGV[0], '$2b$05$abcdefghijklmnopqrstuu')";
    let hash =
        command::run(Command::new("perl").args(["-e", script, password])).context("hash a password")?;
    Ok(hash.trim().to_owned())
}
