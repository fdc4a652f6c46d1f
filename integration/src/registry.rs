//! A real image registry on the loopback.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Weak},
};

use anyhow::Context as _;
use tokio::{net::TcpStream, sync::Mutex};

use crate::{Image, Process, Sandbox, command, process::free_port, wait};

/// Plain HTTP, with or without a password.
#[derive(Debug)]
pub struct Registry {
    pub process: Process,
    address: String,
    scratch: PathBuf,
    credentials: Option<(&'static str, &'static str)>,
    _sandbox: Sandbox,
}

impl Registry {
    pub async fn start(sandbox: &Sandbox) -> Self {
        Self::launch(sandbox, None).await
    }

    /// Takes only clients that know the name and the password.
    pub async fn with_credentials(sandbox: &Sandbox, user: &'static str, password: &'static str) -> Self {
        Self::launch(sandbox, Some((user, password))).await
    }

    /// The registry that the tests of this binary share while any of them runs, with [`Image::busybox`] in it as
    /// `busybox:1` and, one variable apart, as `busybox:2`.
    pub async fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<Registry>> = Mutex::const_new(Weak::new());
        let mut shared = SHARED.lock().await;
        if let Some(running) = shared.upgrade() {
            return running;
        }
        let registry = Self::start(&Sandbox::new()).await;
        for version in ["1", "2"] {
            let image = Image::busybox().env("VERSION", version);
            image
                .push(&registry, &format!("busybox:{version}"))
                .expect("busybox is pushed");
        }
        let registry = Arc::new(registry);
        *shared = Arc::downgrade(&registry);
        registry
    }

    async fn launch(sandbox: &Sandbox, credentials: Option<(&'static str, &'static str)>) -> Self {
        let dir = sandbox.make_dir("registry");
        let address = format!("127.0.0.1:{}", free_port());
        let auth = credentials.map_or_else(String::new, |(user, password)| {
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
        let config = format!(
            "version: 0.1\nlog:\n  level: warn\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {address}\n{auth}",
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
            credentials,
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
