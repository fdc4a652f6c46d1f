//! The runtime shim as a program of its own.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

use clap::{Args, Parser, Subcommand};
use clone8s_daemon::{process, telemetry::Telemetry};
use clone8s_runtime_shim::{
    Config, ImagesConfig, NetworkConfig, PodRanges, PulledImages, RuntimeHandler, StreamConfig, StreamTls,
};

/// Serves the Kubernetes Container Runtime Interface (CRI v1) on containerd's native API
#[derive(Debug, Parser)]
#[command(name = "runtime-shim", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    options: Options,
    #[command(flatten)]
    telemetry: Telemetry,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve CRI (what happens without a command too)
    Serve,
    /// Import the images of an archive, as `skopeo copy … oci-archive:FILE` or `docker save` write it
    Import {
        /// The archive: a .tar file, plain or packed by gzip or zstd (path)
        archive: PathBuf,
    },
    /// Remove every sandbox, container and image, the containerd namespace, the bridge and the state folders;
    /// no shim may be running
    Teardown,
}

#[derive(Debug, Args)]
struct Options {
    /// containerd's gRPC socket (path)
    #[arg(
        long,
        global = true,
        env = "CLONE8S_CONTAINERD",
        default_value = "/run/containerd/containerd.sock"
    )]
    containerd: PathBuf,
    /// containerd namespace for all pods; nothing else should use it (name)
    #[arg(long, global = true, default_value = "clone8s")]
    namespace: String,
    /// Unix socket to serve CRI on (path)
    #[arg(long, global = true, default_value = "/run/clone8s/shim.sock")]
    listen: PathBuf,
    /// Folder for pinned namespaces, FIFOs and files mounted into containers (path)
    #[arg(long, global = true, default_value = "/run/clone8s/shim")]
    state_dir: PathBuf,
    /// Folder for what outlives a reboot (path)
    #[arg(long, global = true, default_value = "/var/lib/clone8s/shim")]
    root_dir: PathBuf,
    /// Folder of CNI plugins (path; repeatable, searched in order)
    #[arg(
        long,
        global = true,
        default_values = ["/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni"]
    )]
    cni_bin_dir: Vec<PathBuf>,
    /// Folder of CNI network configuration; while it has none, the built-in bridge network is used (path)
    #[arg(long, global = true, default_value = "/etc/cni/net.d")]
    cni_conf_dir: PathBuf,
    /// How long one CNI plugin may take before it is killed (seconds)
    #[arg(long, global = true, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    cni_timeout: u64,
    /// Addresses of the built-in network (CIDR; one of IPv4, one of IPv6, or both with a comma between them)
    #[arg(long, global = true, default_value = "10.88.0.0/16")]
    pod_cidr: PodRanges,
    /// Bridge of the built-in network (interface name, at most 15 characters)
    #[arg(long, global = true, default_value = "c8s0")]
    bridge_name: String,
    /// Where the URLs of exec, attach and port-forward lead to (IP:PORT, port 0 takes any; needs a certificate when
    /// it is not the loopback)
    #[arg(long, global = true, default_value = "127.0.0.1:0")]
    stream_address: SocketAddr,
    /// Host that those URLs name (name or address; default: that of the address)
    #[arg(long, global = true)]
    stream_host: Option<String>,
    /// Certificate for those URLs, with its chain (path to PEM; read again when it changes)
    #[arg(long, global = true, requires = "stream_tls_key")]
    stream_tls_cert: Option<PathBuf>,
    /// Key of that certificate (path to PEM)
    #[arg(long, global = true, requires = "stream_tls_cert")]
    stream_tls_key: Option<PathBuf>,
    /// CA of the clients that may use those URLs; without one, the URL is enough (path to PEM)
    #[arg(long, global = true, requires = "stream_tls_cert")]
    stream_tls_client_ca: Option<PathBuf>,
    /// containerd snapshotter (name)
    #[arg(long, global = true, default_value = "overlayfs")]
    snapshotter: String,
    /// Handler for sandboxes that ask for none (name; default: crun where crun 1.8 or newer is there and the host has
    /// cgroup v2 alone, else runc; `crictl info` shows which, and why)
    #[arg(long, global = true)]
    default_handler: Option<String>,
    /// A further runtime handler (NAME=OCI-RUNTIME, a program's name or path, or
    /// NAME=CONTAINERD-RUNTIME:OCI-RUNTIME, such as go=io.containerd.runc.v2:runc for containerd's own shim;
    /// repeatable; runc and crun, on our shim, are always there)
    #[arg(long, global = true, value_name = "NAME=PROGRAM", value_parser = parse_handler)]
    handler: Vec<(String, RuntimeHandler)>,
    /// Registry to speak to without TLS (HOST or HOST:PORT; repeatable; loopback ones always are)
    #[arg(long, global = true, value_name = "REGISTRY")]
    plain_http: Vec<String>,
    /// Folder of Container Device Interface (CDI) files (path; repeatable, a later one comes before an earlier one)
    #[arg(long, global = true, default_values = ["/etc/cdi", "/var/run/cdi"])]
    cdi_dir: Vec<PathBuf>,
    /// Folder of registry configuration in containerd's form: HOST/hosts.toml with mirrors, authorities and headers,
    /// read for every pull (path)
    #[arg(long, global = true, default_value = "/etc/containerd/certs.d")]
    registry_hosts_dir: PathBuf,
    /// Credentials for registries in docker's form (config.json), for pulls that bring none (path)
    #[arg(long, global = true)]
    registry_auth_file: Option<PathBuf>,
    /// Layers to download from one registry at a time, over all pulls; one pull takes half (number)
    #[arg(long, global = true, default_value_t = 6)]
    registry_downloads: usize,
    /// How long a registry may take to accept a connection (seconds)
    #[arg(long, global = true, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    registry_connect_timeout: u64,
    /// How long a registry may send nothing before the connection counts as broken (seconds)
    #[arg(long, global = true, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    registry_idle_timeout: u64,
    /// What one image may take, packed or unpacked (bytes)
    #[arg(long, global = true, default_value_t = 64 << 30)]
    image_size_limit: u64,
    /// Image to tell as pinned, so that it is never collected as unused (NAME; repeatable)
    #[arg(long, global = true, value_name = "IMAGE")]
    pin: Vec<String>,
    /// Image archive to import at the start: a file, or a folder of .tar, .tar.gz and .tar.zst files
    /// (path; repeatable)
    #[arg(long, global = true)]
    archive: Vec<PathBuf>,
}

fn parse_handler(text: &str) -> Result<(String, RuntimeHandler), String> {
    let (name, program) = text
        .split_once('=')
        .filter(|(name, program)| !name.is_empty() && !program.is_empty())
        .ok_or("must be NAME=PROGRAM, such as kata=/usr/bin/kata-runtime")?;
    let handler = match program.split_once(':') {
        Some((runtime, binary)) => RuntimeHandler {
            runtime: runtime.to_owned(),
            binary: (!binary.is_empty()).then(|| binary.to_owned()),
        },
        None => RuntimeHandler::own(Some(program)),
    };
    Ok((name.to_owned(), handler))
}

impl From<Options> for Config {
    fn from(options: Options) -> Self {
        let mut handlers: BTreeMap<_, _> = Self::default().handlers;
        handlers.extend(options.handler);
        Self {
            containerd: options.containerd,
            namespace: options.namespace,
            listen: options.listen,
            state_dir: options.state_dir,
            root_dir: options.root_dir,
            network: NetworkConfig {
                plugin_dirs: options.cni_bin_dir,
                conf_dir: options.cni_conf_dir,
                pod_cidr: options.pod_cidr,
                bridge_name: options.bridge_name,
                plugin_time_limit: Duration::from_secs(options.cni_timeout),
            },
            streams: StreamConfig {
                address: options.stream_address,
                host: options.stream_host,
                tls: options
                    .stream_tls_cert
                    .zip(options.stream_tls_key)
                    .map(|(certificate, key)| StreamTls {
                        certificate,
                        key,
                        client_ca: options.stream_tls_client_ca,
                    }),
            },
            snapshotter: options.snapshotter,
            default_handler: options.default_handler,
            handlers,
            plain_http: options.plain_http.into_iter().collect(),
            cdi_dirs: options.cdi_dir,
            archives: options.archive,
            images: ImagesConfig {
                hosts_dir: options.registry_hosts_dir,
                auth_file: options.registry_auth_file,
                pinned: options.pin.into_iter().collect(),
                downloads: options.registry_downloads,
                connect_limit: Duration::from_secs(options.registry_connect_timeout),
                silence_limit: Duration::from_secs(options.registry_idle_timeout),
                size_limit: options.image_size_limit,
            },
        }
    }
}

fn main() -> ExitCode {
    if let Some(code) = clone8s_runtime_shim::run_if_asked() {
        return code;
    }
    let cli = Cli::parse();
    let config = Config::from(cli.options);
    process::run(&cli.telemetry, |shutdown| async move {
        match cli.command.unwrap_or(Command::Serve) {
            Command::Serve => clone8s_runtime_shim::run(config, shutdown)
                .await
                .map_err(anyhow::Error::from),
            Command::Import { archive } => {
                let names =
                    clone8s_runtime_shim::import_archive(&config.containerd, &config.namespace, &archive)
                        .await?;
                for name in names {
                    println!("{name}");
                }
                Ok(())
            }
            Command::Teardown => Ok(clone8s_runtime_shim::teardown(config, PulledImages::Remove).await?),
        }
    })
}
