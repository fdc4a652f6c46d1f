//! The kubelet as a program of its own.

use std::{num::NonZeroU32, path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use clap::Parser;
use clone8s_bus::{EventBus, amqp::AmqpArgs};
use clone8s_daemon::{etcd::EtcdArgs, process, telemetry::Telemetry};
use clone8s_kubelet::{
    Config,
    config::{
        Apiserver, DEFAULT_CGROUP_ROOT, DEFAULT_CLUSTER_DOMAIN, DEFAULT_DATA_DIR, DEFAULT_LOG_ROOT,
        DEFAULT_PARALLEL_PULLS, DEFAULT_RUNTIME_SOCKET, EtcdConfig, Intervals, JoinToken, Reserved,
    },
    images::ImagePolicy,
    sysctls::SysctlPattern,
};

/// Makes the containers of this node match its pods
///
/// Pods come from a folder of manifests, from an API server, and from the node's AMQP queue, each where it is
/// given. Stopping the kubelet stops no container.
#[derive(Debug, Parser)]
#[command(
    name = "kubelet",
    version,
    max_term_width = 100,
    mut_arg("etcd", |etcd| etcd.requires("etcd_ca").conflicts_with("apiserver").help(
        "Endpoints of an etcd where a node without an API server registers, such as https://10.0.0.5:2379; may be given \
         several times [default: none]"
    )),
)]
struct Cli {
    /// This node's name, a DNS label [default: the hostname]
    #[arg(long, env = "CLONE8S_NODE_NAME", value_name = "NAME")]
    node_name: Option<String>,
    /// Socket of the container runtime: ours, or any other of CRI v1
    #[arg(long, env = "CLONE8S_RUNTIME", default_value = DEFAULT_RUNTIME_SOCKET, value_name = "PATH")]
    runtime: PathBuf,
    /// Folder of manifests that this node runs
    #[arg(long, value_name = "FOLDER")]
    manifests: Option<PathBuf>,
    /// Folder of config maps and secrets, as manifests, for the pods of the manifest folder and of the queue
    #[arg(long, value_name = "FOLDER")]
    config_objects: Option<PathBuf>,
    /// Folder of image archives (OCI or Docker; .tar, .tar.gz, .tgz or .tar.zst) to load, now and when a file comes
    #[arg(long, value_name = "FOLDER")]
    image_archives: Option<PathBuf>,
    /// Folder for what must outlive the kubelet: checkpoints, volumes, certificates
    #[arg(long, default_value = DEFAULT_DATA_DIR, value_name = "FOLDER")]
    data_dir: PathBuf,
    /// Folder for the logs of containers
    #[arg(long, default_value = DEFAULT_LOG_ROOT, value_name = "FOLDER")]
    log_root: PathBuf,
    /// Seconds for which the logs of a pod stay on the node after it is gone
    #[arg(long, default_value_t = 300, value_name = "SECONDS")]
    log_retention: u64,

    /// API server: https://host:port, or the path of its unix socket [default: none, the node stands alone]
    #[arg(long, env = "CLONE8S_APISERVER", value_name = "ADDRESS")]
    apiserver: Option<String>,
    /// Root CA (PEM) that the API server's certificate is verified against [default: the one that the join token pins]
    #[arg(long, requires = "apiserver", value_name = "FILE")]
    apiserver_ca: Option<PathBuf>,
    /// One-time token to join the cluster with; better in the environment or a file than in the process list
    #[arg(
        long,
        env = "CLONE8S_JOIN_TOKEN",
        hide_env_values = true,
        requires = "apiserver",
        conflicts_with = "join_token_file",
        value_name = "TOKEN"
    )]
    join_token: Option<String>,
    /// File that holds the join token
    #[arg(long, requires = "apiserver", value_name = "FILE")]
    join_token_file: Option<PathBuf>,

    #[command(flatten)]
    amqp: AmqpArgs,

    #[command(flatten)]
    etcd: EtcdArgs,

    /// Seconds between full lists of what runs, while the runtime sends events; 1 at most while it does not
    #[arg(long, default_value = "10", value_parser = seconds, value_name = "SECONDS")]
    relist_interval: Duration,
    /// Seconds before the second restart of a container that ended early; doubles with each
    #[arg(long, default_value = "10", value_parser = seconds, value_name = "SECONDS")]
    backoff_base: Duration,
    /// Seconds that no restart waits longer than
    #[arg(long, default_value = "300", value_parser = seconds, value_name = "SECONDS")]
    backoff_max: Duration,
    /// Seconds between heartbeats of the node, which renew its lease
    #[arg(long, default_value = "10", value_parser = seconds, value_name = "SECONDS")]
    heartbeat_interval: Duration,
    /// Seconds between reports of the node's status while none of its conditions changes
    #[arg(long, default_value = "60", value_parser = seconds, value_name = "SECONDS")]
    node_status_interval: Duration,
    /// Seconds between samples of what the node and its containers use
    #[arg(long, default_value = "10", value_parser = seconds, value_name = "SECONDS")]
    stats_interval: Duration,

    /// Most images that are pulled at a time; the others wait, the first that was asked for first
    #[arg(long, default_value_t = DEFAULT_PARALLEL_PULLS, value_name = "NUMBER")]
    max_parallel_image_pulls: NonZeroU32,
    /// Percent of the images' disk from which on images that nothing uses are removed
    #[arg(long, default_value_t = 85, value_parser = clap::value_parser!(u8).range(1..=100), value_name = "PERCENT")]
    image_gc_high_threshold: u8,
    /// Percent of the images' disk that are left in use then
    #[arg(long, default_value_t = 80, value_parser = clap::value_parser!(u8).range(0..=99), value_name = "PERCENT")]
    image_gc_low_threshold: u8,
    /// Seconds for which an image that is new is left alone
    #[arg(long, default_value = "120", value_parser = seconds, value_name = "SECONDS")]
    image_minimum_gc_age: Duration,
    /// Seconds after which an image that nothing has used is removed from any disk [default: never]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..), value_name = "SECONDS")]
    image_maximum_gc_age: Option<u64>,

    /// What of the node pods are not promised, such as cpu=100m,memory=200Mi,ephemeral-storage=1Gi
    #[arg(
        long,
        default_value = "",
        hide_default_value = true,
        value_name = "QUANTITIES"
    )]
    system_reserved: Reserved,
    /// Folder that the seccomp profiles are below which pods name [default: seccomp in the data folder]
    #[arg(long, value_name = "FOLDER")]
    seccomp_profile_root: Option<PathBuf>,
    /// Parameters of the kernel that pods may set although they are not safe, such as net.core.somaxconn,kernel.msg*
    #[arg(long, value_delimiter = ',', value_name = "PATTERNS")]
    allowed_unsafe_sysctls: Vec<SysctlPattern>,
    /// Domain that the full names of pods end in
    #[arg(long, default_value = DEFAULT_CLUSTER_DOMAIN, value_name = "DOMAIN")]
    cluster_domain: String,
    /// Most processes and threads that one pod may have [default: no limit]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..), value_name = "NUMBER")]
    pod_max_pids: Option<u32>,
    /// Cgroup above those of all pods
    #[arg(long, default_value = DEFAULT_CGROUP_ROOT, value_parser = cgroup, value_name = "CGROUP")]
    cgroup_root: String,

    #[command(flatten)]
    telemetry: Telemetry,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let telemetry = cli.telemetry.clone();
    process::run(&telemetry, |shutdown| async move {
        let bus = bus(&cli)?;
        let config = config(cli)?;
        clone8s_kubelet::run(config, bus, shutdown).await?;
        anyhow::Ok(())
    })
}

fn bus(cli: &Cli) -> anyhow::Result<Option<Arc<dyn EventBus>>> {
    let bus = cli.amqp.connect().context("--amqp")?;
    Ok(bus.map(|bus| Arc::new(bus) as Arc<dyn EventBus>))
}

fn config(cli: Cli) -> anyhow::Result<Config> {
    let node_name = match cli.node_name {
        Some(name) => name,
        None => hostname()?,
    };
    if let Err(reason) = clone8s::names::check_dns_label(&node_name) {
        bail!("node name {node_name:?} {reason}; give another with --node-name");
    }
    let join_token = match (cli.join_token, cli.join_token_file) {
        (Some(token), _) => Some(JoinToken::Literal(token)),
        (None, file) => file.map(JoinToken::File),
    };
    if let Err(reason) = clone8s::names::check_dns_subdomain(&cli.cluster_domain) {
        bail!("--cluster-domain {:?} {reason}", cli.cluster_domain);
    }
    if cli.image_gc_low_threshold >= cli.image_gc_high_threshold {
        bail!(
            "--image-gc-low-threshold {} must be below --image-gc-high-threshold {}",
            cli.image_gc_low_threshold,
            cli.image_gc_high_threshold
        );
    }
    let client_identity = cli.etcd.identity();
    let etcd = cli.etcd.etcd_ca.map(|ca_file| EtcdConfig {
        endpoints: cli.etcd.etcd,
        ca_file,
        client_identity,
    });
    Ok(Config {
        runtime_socket: cli.runtime,
        manifest_folder: cli.manifests,
        config_objects: cli.config_objects,
        image_archives: cli.image_archives,
        data_dir: cli.data_dir,
        log_root: cli.log_root,
        log_retention: Duration::from_secs(cli.log_retention),
        apiserver: cli.apiserver.map(apiserver).transpose()?,
        apiserver_ca: cli.apiserver_ca,
        join_token,
        etcd,
        intervals: Intervals {
            relist: cli.relist_interval,
            backoff_base: cli.backoff_base,
            backoff_max: cli.backoff_max.max(cli.backoff_base),
            heartbeat: cli.heartbeat_interval,
            node_status: cli.node_status_interval,
            stats: cli.stats_interval,
            ..Intervals::default()
        },
        images: ImagePolicy {
            high_threshold: cli.image_gc_high_threshold,
            low_threshold: cli.image_gc_low_threshold,
            min_age: cli.image_minimum_gc_age,
            max_age: cli.image_maximum_gc_age.map(Duration::from_secs),
        },
        max_parallel_pulls: cli.max_parallel_image_pulls,
        reserved: cli.system_reserved,
        seccomp_profile_root: cli.seccomp_profile_root,
        allowed_unsafe_sysctls: cli.allowed_unsafe_sysctls,
        cluster_domain: cli.cluster_domain,
        cgroup_root: Some(cli.cgroup_root),
        pod_max_pids: cli.pod_max_pids,
        ..Config::new(node_name)
    })
}

fn apiserver(address: String) -> anyhow::Result<Apiserver> {
    if address.starts_with("https://") {
        return Ok(Apiserver::Url(address));
    }
    if address.starts_with('/') {
        return Ok(Apiserver::Socket(address.into()));
    }
    bail!("--apiserver {address:?}: write https://host:port, or the absolute path of a unix socket");
}

/// The hostname up to its first dot, in lower case: a DNS label where it can be one.
fn hostname() -> anyhow::Result<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname")
        .context("cannot read the hostname; give --node-name")?;
    let label = name.trim().split('.').next().unwrap_or_default();
    Ok(label.to_ascii_lowercase().replace('_', "-"))
}

fn cgroup(text: &str) -> Result<String, String> {
    let is_name = |part: &str| !["", ".", ".."].contains(&part);
    match text.strip_prefix('/') {
        Some(below) if below.split('/').all(is_name) => Ok(text.to_owned()),
        _ => Err("write a path from the root of the cgroups, such as /clone8s".to_owned()),
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.01..=86_400.0).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err("write a number of seconds from 0.01 to 86400".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn parse(arguments: &[&str]) -> anyhow::Result<Config> {
        let arguments = [&["kubelet"], arguments].concat();
        config(Cli::try_parse_from(arguments)?)
    }

    #[test]
    fn the_arguments_do_not_contradict_each_other() {
        Cli::command().debug_assert();
    }

    #[test]
    fn an_address_is_a_url_or_a_socket() {
        let of = |address| parse(&["--node-name", "n1", "--apiserver", address]);
        let url = of("https://api:7443").unwrap().apiserver;
        assert_eq!(url, Some(Apiserver::Url("https://api:7443".into())));
        let socket = of("/run/api.sock").unwrap().apiserver;
        assert_eq!(socket, Some(Apiserver::Socket("/run/api.sock".into())));
        let error = of("http://api:7443").unwrap_err().to_string();
        assert!(error.contains("https://host:port"), "{error}");
    }

    #[test]
    fn a_node_name_is_a_dns_label() {
        let error = parse(&["--node-name", "Node 1"]).unwrap_err().to_string();
        assert!(error.contains("--node-name"), "{error}");
    }

    #[test]
    fn intervals_are_seconds_within_bounds() {
        let config = parse(&["--node-name", "n1", "--backoff-base", "0.5"]).unwrap();
        assert_eq!(config.intervals.backoff_base, Duration::from_millis(500));
        parse(&["--node-name", "n1", "--relist-interval", "0"]).unwrap_err();
    }

    #[test]
    fn an_etcd_needs_its_root_ca() {
        parse(&["--node-name", "n1", "--etcd", "https://e:2379"]).unwrap_err();
        let config = parse(&[
            "--node-name",
            "n1",
            "--etcd",
            "https://e:2379",
            "--etcd-ca",
            "/ca",
        ])
        .unwrap();
        assert_eq!(config.etcd.unwrap().endpoints, ["https://e:2379"]);
    }
}
