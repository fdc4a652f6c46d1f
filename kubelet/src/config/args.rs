//! The settings of a node as flags: of the kubelet's own program, and of every other that has a kubelet in it.

use std::{num::NonZeroU32, path::PathBuf, time::Duration};

use clap::Args;

use super::{
    Config, DEFAULT_CGROUP_ROOT, DEFAULT_CLUSTER_DOMAIN, DEFAULT_PARALLEL_PULLS, Intervals, Reserved,
};
use crate::{images::ImagePolicy, logs::KeptLogs, sysctls::SysctlPattern};

/// What a person may say about a node, beside its name, its folders and whom it speaks to.
#[derive(Debug, Clone, Args)]
pub struct NodeArgs {
    /// Folder of manifests that this node runs
    #[arg(long, value_name = "FOLDER")]
    pub manifests: Option<PathBuf>,
    /// Folder of config maps and secrets, as manifests, for the pods of the manifest folder and of the queue
    #[arg(long, value_name = "FOLDER")]
    pub config_objects: Option<PathBuf>,
    /// Folder of image archives (OCI or Docker; .tar, .tar.gz, .tgz or .tar.zst) to load, now and when a file comes
    #[arg(long, value_name = "FOLDER")]
    pub image_archives: Option<PathBuf>,
    /// Seconds for which the logs of a pod stay on the node after it is gone
    #[arg(long, default_value_t = 300, value_name = "SECONDS")]
    pub log_retention: u64,
    /// Most that the logs of pods that are gone may take of the disk; those of the pod that went first go first
    #[arg(long, default_value = "1Gi", value_parser = bytes, value_name = "QUANTITY")]
    pub log_retention_size: u64,

    /// Seconds between full lists of what runs, while the runtime sends events; 1 at most while it does not
    #[arg(long, default_value = "10", value_parser = seconds, value_name = "SECONDS")]
    pub relist_interval: Duration,
    /// Seconds before the second restart of a container that ended early; doubles with each
    #[arg(long, default_value = "10", value_parser = seconds, value_name = "SECONDS")]
    pub backoff_base: Duration,
    /// Seconds that no restart waits longer than
    #[arg(long, default_value = "300", value_parser = seconds, value_name = "SECONDS")]
    pub backoff_max: Duration,
    /// Seconds between heartbeats of the node, which renew its lease
    #[arg(long, default_value = "10", value_parser = seconds, value_name = "SECONDS")]
    pub heartbeat_interval: Duration,
    /// Seconds between reports of the node's status while none of its conditions changes
    #[arg(long, default_value = "60", value_parser = seconds, value_name = "SECONDS")]
    pub node_status_interval: Duration,
    /// Seconds between samples of what the node and its containers use
    #[arg(long, default_value = "10", value_parser = seconds, value_name = "SECONDS")]
    pub stats_interval: Duration,

    /// Most images that are pulled at a time; the others wait, the first that was asked for first
    #[arg(long, default_value_t = DEFAULT_PARALLEL_PULLS, value_name = "NUMBER")]
    pub max_parallel_image_pulls: NonZeroU32,
    /// Percent of the images' disk from which on images that nothing uses are removed
    #[arg(long, default_value_t = 85, value_parser = clap::value_parser!(u8).range(1..=100), value_name = "PERCENT")]
    pub image_gc_high_threshold: u8,
    /// Percent of the images' disk that are left in use then
    #[arg(long, default_value_t = 80, value_parser = clap::value_parser!(u8).range(0..=99), value_name = "PERCENT")]
    pub image_gc_low_threshold: u8,
    /// Seconds for which an image that is new is left alone
    #[arg(long, default_value = "120", value_parser = seconds, value_name = "SECONDS")]
    pub image_minimum_gc_age: Duration,
    /// Seconds after which an image that nothing has used is removed from any disk [default: never]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..), value_name = "SECONDS")]
    pub image_maximum_gc_age: Option<u64>,

    /// What of the node pods are not promised, such as cpu=100m,memory=200Mi,ephemeral-storage=1Gi
    #[arg(
        long,
        default_value = "",
        hide_default_value = true,
        value_name = "QUANTITIES"
    )]
    pub system_reserved: Reserved,
    /// Folder that the seccomp profiles are below which pods name [default: seccomp in the data folder]
    #[arg(long, value_name = "FOLDER")]
    pub seccomp_profile_root: Option<PathBuf>,
    /// Parameters of the kernel that pods may set although they are not safe, such as net.core.somaxconn,kernel.msg*
    #[arg(long, value_delimiter = ',', value_name = "PATTERNS")]
    pub allowed_unsafe_sysctls: Vec<SysctlPattern>,
    /// Domain that the full names of pods end in
    #[arg(long, default_value = DEFAULT_CLUSTER_DOMAIN, value_parser = domain, value_name = "DOMAIN")]
    pub cluster_domain: String,
    /// Most processes and threads that one pod may have [default: no limit]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..), value_name = "NUMBER")]
    pub pod_max_pids: Option<u32>,
    /// Cgroup above those of all pods
    #[arg(long, default_value = DEFAULT_CGROUP_ROOT, value_parser = cgroup, value_name = "CGROUP")]
    pub cgroup_root: String,
}

/// Flags that contradict each other.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("--image-gc-low-threshold {low} must be below --image-gc-high-threshold {high}")]
pub struct ThresholdsError {
    low: u8,
    high: u8,
}

impl NodeArgs {
    /// A kubelet of these settings, and every default beside them.
    pub fn config(self, node_name: impl Into<String>) -> Result<Config, ThresholdsError> {
        let (low, high) = (self.image_gc_low_threshold, self.image_gc_high_threshold);
        if low >= high {
            return Err(ThresholdsError { low, high });
        }
        Ok(Config {
            manifest_folder: self.manifests,
            config_objects: self.config_objects,
            image_archives: self.image_archives,
            kept_logs: KeptLogs {
                time: Duration::from_secs(self.log_retention),
                room: self.log_retention_size,
            },
            intervals: Intervals {
                relist: self.relist_interval,
                backoff_base: self.backoff_base,
                backoff_max: self.backoff_max.max(self.backoff_base),
                heartbeat: self.heartbeat_interval,
                node_status: self.node_status_interval,
                stats: self.stats_interval,
                ..Intervals::default()
            },
            images: ImagePolicy {
                high_threshold: high,
                low_threshold: low,
                min_age: self.image_minimum_gc_age,
                max_age: self.image_maximum_gc_age.map(Duration::from_secs),
            },
            max_parallel_pulls: self.max_parallel_image_pulls,
            reserved: self.system_reserved,
            seccomp_profile_root: self.seccomp_profile_root,
            allowed_unsafe_sysctls: self.allowed_unsafe_sysctls,
            cluster_domain: self.cluster_domain,
            cgroup_root: Some(self.cgroup_root),
            pod_max_pids: self.pod_max_pids,
            ..Config::new(node_name)
        })
    }
}

fn bytes(text: &str) -> Result<u64, String> {
    let bytes = clone8s::quantity::bytes(text).map_err(|error| error.to_string())?;
    u64::try_from(bytes).map_err(|_| "must not be negative".to_owned())
}

fn domain(text: &str) -> Result<String, clone8s::names::NameError> {
    clone8s::names::check_dns_subdomain(text)?;
    Ok(text.to_owned())
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
    use clap::Parser;
    use rstest::rstest;

    use super::*;

    #[derive(Debug, Parser)]
    struct Program {
        #[command(flatten)]
        node: NodeArgs,
    }

    fn parse(flags: &[&str]) -> Result<Config, String> {
        let program = Program::try_parse_from([&["program"], flags].concat());
        let program = program.map_err(|error| error.to_string())?;
        program.node.config("n1").map_err(|error| error.to_string())
    }

    /// Two programs that say nothing of a node have the same one, and so has who makes one by [`Config::new`].
    #[test]
    fn without_flags_a_node_has_every_default() {
        let (by_flags, by_default) = (parse(&[]).unwrap(), Config::new("n1"));
        assert_eq!(format!("{by_flags:?}"), format!("{by_default:?}"));
    }

    #[rstest]
    #[case::seconds(&["--relist-interval", "0"], "from 0.01 to 86400")]
    #[case::thresholds(&["--image-gc-high-threshold", "70"], "--image-gc-low-threshold 80 must be below")]
    #[case::domain(&["--cluster-domain", "a_b"], "--cluster-domain")]
    #[case::cgroup(&["--cgroup-root", "/a/../b"], "a path from the root of the cgroups")]
    #[case::room(&["--log-retention-size", "much"], "is not a quantity")]
    #[case::pulls(&["--max-parallel-image-pulls", "0"], "--max-parallel-image-pulls")]
    fn what_cannot_be_is_refused_by_its_flag(#[case] flags: &[&str], #[case] why: &str) {
        let error = parse(flags).unwrap_err();
        assert!(error.contains(why), "{error}");
    }

    #[test]
    fn the_longest_wait_is_no_shorter_than_the_first() {
        let intervals = parse(&["--backoff-base", "0.5", "--backoff-max", "0.1"])
            .unwrap()
            .intervals;
        assert_eq!(intervals.backoff_base, Duration::from_millis(500));
        assert_eq!(intervals.backoff_max, intervals.backoff_base);
    }
}
