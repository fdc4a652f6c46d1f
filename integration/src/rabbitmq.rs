//! A real RabbitMQ of one node, apart from any other on the machine.

use std::{
    fs,
    path::PathBuf,
    process::Command,
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use lapin::{Connection, ConnectionProperties};
use serde_json::json;
use tokio::{sync::Mutex, time::timeout};

use crate::{Process, Sandbox, command, network::Place, pki::Ca, process::free_port, wait};

/// Made at the start, because making one later takes a second Erlang: tests that share a broker have one each. Each takes
/// the broker longer to start, so that a broker of a test's own has but one.
const SHARED_VHOSTS: usize = 24;

/// One broker with its own node name, port mapper, folders and ports.
#[derive(Debug)]
pub struct RabbitMq {
    pub process: Process,
    // Declared after the broker, so that it ends after it.
    _epmd: Process,
    _sandbox: Sandbox,
    dir: PathBuf,
    epmd_port: String,
    node_name: String,
    host: String,
    port: u16,
    tls: Option<(Ca, u16)>,
    vhosts: usize,
    vhosts_given: AtomicUsize,
}

const CONNECT_PATIENCE: Duration = Duration::from_secs(10);

impl RabbitMq {
    /// A broker of its own with one virtual host, for a test that stops it.
    pub async fn start(sandbox: &Sandbox) -> Self {
        Self::launch(sandbox, 1, None, None).await
    }

    /// A broker of its own at a place that the caller can reach.
    pub async fn at(sandbox: &Sandbox, place: &Place) -> Self {
        Self::launch(sandbox, 1, None, Some(place)).await
    }

    /// A broker that listens with TLS too, and takes a certificate's common name for a user with `auth_mechanism=external`.
    pub async fn with_tls(sandbox: &Sandbox) -> Self {
        let ca = Ca::new(&sandbox.make_dir("rabbitmq-pki"), "rabbitmq test root").expect("a CA");
        Self::launch(sandbox, 1, Some(ca), None).await
    }

    /// The broker that the tests of this binary share while any of them runs: starting one takes seconds.
    pub async fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<RabbitMq>> = Mutex::const_new(Weak::new());
        let mut shared = SHARED.lock().await;
        if let Some(running) = shared.upgrade() {
            return running;
        }
        let started = Arc::new(Self::launch(&Sandbox::new(), SHARED_VHOSTS, None, None).await);
        *shared = Arc::downgrade(&started);
        started
    }

    async fn launch(sandbox: &Sandbox, vhosts: usize, tls: Option<Ca>, place: Option<&Place>) -> Self {
        let host = place.map_or("127.0.0.1", Place::address);
        let process = |name: &str, program: &str| match place {
            Some(place) => place.process(name, program),
            None => sandbox.process(name, program),
        };
        let dir = sandbox.make_dir("rabbitmq");
        let (port, epmd_port) = (free_port(), free_port().to_string());
        let tls = tls.map(|ca| (ca, free_port()));

        let tls_config = tls.as_ref().map_or_else(String::new, |(ca, tls_port)| {
            let pair = ca.issue("rabbitmq").expect("a certificate");
            format!(
                "listeners.ssl.1 = 127.0.0.1:{tls_port}\nssl_options.cacertfile = {}\n\
                 ssl_options.certfile = {}\nssl_options.keyfile = {}\nssl_options.verify = verify_peer\n\
                 ssl_options.fail_if_no_peer_cert = false\nssl_cert_login_from = common_name\n\
                 auth_mechanisms.1 = PLAIN\nauth_mechanisms.2 = EXTERNAL\n",
                ca.certificate_file().display(),
                pair.certificate_file.display(),
                pair.key_file.display()
            )
        });
        let config = format!(
            "listeners.tcp.1 = {host}:{port}\n\
             load_definitions = {}\n\
             loopback_users.guest = false\n\
             log.console = true\nlog.console.level = warning\nlog.file = false\n\
             disk_free_limit.absolute = 10MB\n{tls_config}",
            dir.join("definitions.json").display()
        );
        let write =
            |name: &str, content: &str| fs::write(dir.join(name), content).expect("a file of the broker");
        write("rabbitmq.conf", &config);
        write("definitions.json", &definitions(vhosts).to_string());
        // Who shows a certificate may be its user.
        let plugins = if tls.is_some() {
            "[rabbitmq_auth_mechanism_ssl]."
        } else {
            "[]."
        };
        write("enabled_plugins", plugins);
        write("rabbitmq-env.conf", "");

        let node_name = format!("test-{}@localhost", sandbox.id());
        let epmd = process("epmd", "epmd")
            .args(["-address", "127.0.0.1", "-port", &epmd_port])
            .started();
        // Not the one in PATH: that one changes the user and drops the environment.
        let process = process("rabbitmq", "/usr/lib/rabbitmq/bin/rabbitmq-server")
            .env("HOME", &dir)
            .env("ERL_EPMD_PORT", &epmd_port)
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            // Makes the script become the broker, so that its process id is the broker's.
            .env("RUNNING_UNDER_SYSTEMD", "1")
            .env("RABBITMQ_NODENAME", &node_name)
            .env("RABBITMQ_DIST_PORT", free_port().to_string())
            // Its default is every address.
            .env(
                "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
                "-kernel inet_dist_use_interface {127,0,0,1}",
            )
            .env("RABBITMQ_CONF_ENV_FILE", dir.join("rabbitmq-env.conf"))
            .env("RABBITMQ_CONFIG_FILE", dir.join("rabbitmq.conf"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", dir.join("enabled_plugins"))
            .env("RABBITMQ_MNESIA_BASE", dir.join("mnesia"))
            .env("RABBITMQ_LOG_BASE", dir.join("log"))
            .env("RABBITMQ_PID_FILE", dir.join("pid"))
            .started();
        let mut broker = Self {
            process,
            _epmd: epmd,
            _sandbox: sandbox.clone(),
            dir,
            epmd_port,
            node_name,
            host: host.to_owned(),
            port,
            tls,
            vhosts,
            vhosts_given: AtomicUsize::new(0),
        };
        broker.ready().await;
        broker
    }

    /// A virtual host that no other test of this binary uses, as an `amqp://` address with credentials.
    pub fn vhost(&self) -> String {
        let number = self.vhosts_given.fetch_add(1, Ordering::Relaxed);
        assert!(
            number < self.vhosts,
            "more tests share a broker than it has virtual hosts: raise SHARED_VHOSTS"
        );
        self.address(number)
    }

    fn address(&self, vhost: usize) -> String {
        format!("amqp://guest:guest@{}:{}/test{vhost}", self.host, self.port)
    }

    /// Runs rabbitmqctl against this broker, with its own arguments.
    pub fn ctl<S: AsRef<str>>(&self, args: &[S]) -> anyhow::Result<String> {
        command::run(
            Command::new("/usr/lib/rabbitmq/bin/rabbitmqctl")
                .env("HOME", &self.dir)
                .env("ERL_EPMD_PORT", &self.epmd_port)
                .env("ERL_EPMD_ADDRESS", "127.0.0.1")
                .env("RABBITMQ_NODENAME", &self.node_name)
                .env("RABBITMQ_CONF_ENV_FILE", self.dir.join("rabbitmq-env.conf"))
                .args(args.iter().map(AsRef::as_ref)),
        )
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The port with TLS and the root CA behind it, for a broker with TLS.
    pub fn tls(&self) -> (u16, &Ca) {
        let (ca, port) = self.tls.as_ref().expect("this broker has TLS");
        (*port, ca)
    }

    pub async fn ready(&mut self) {
        let address = self.address(0);
        // An Erlang takes as much of the processor to start as all other servers of a test together.
        wait::until_within(2 * wait::bound(), "RabbitMQ answers", || async {
            connect(&address)
                .await?
                .close(200, "ok".into())
                .await
                .context("close")
        })
        .await;
    }

    /// Puts on disk what was declared: RabbitMQ answers a declaration before that, and a kill just then loses it.
    pub fn sync(&self) {
        self.ctl(&["eval", "mnesia:sync_log()."])
            .expect("RabbitMQ writes its log");
    }

    pub async fn start_again(&mut self) {
        self.process.start().expect("RabbitMQ starts");
        self.ready().await;
    }
}

/// A connection of a foreign program.
pub async fn connect(address: &str) -> anyhow::Result<Connection> {
    let connecting = Connection::connect(address, ConnectionProperties::default());
    // What a broker does not answer while it starts, it never answers.
    timeout(CONNECT_PATIENCE, connecting)
        .await
        .with_context(|| format!("connect to RabbitMQ: no answer within {CONNECT_PATIENCE:?}"))?
        .context("connect to RabbitMQ")
}

fn definitions(vhosts: usize) -> serde_json::Value {
    let names = || (0..vhosts).map(|number| format!("test{number}"));
    json!({
        "users": [{ "name": "guest", "password": "guest", "tags": "administrator" }],
        "vhosts": names().map(|name| json!({ "name": name })).collect::<Vec<_>>(),
        "permissions": names()
            .map(|vhost| json!({ "user": "guest", "vhost": vhost, "configure": ".*", "write": ".*", "read": ".*" }))
            .collect::<Vec<_>>(),
    })
}
