//! Many small pods on one node: what the kubelet takes while nothing happens.

use std::{fmt::Write as _, fs, time::Duration};

use anyhow::{Context as _, ensure};
use clone8s_integration::{Image, Node, Registry, Sandbox, pods, wait};
use tokio::time::Instant;

use crate::machine;

/// How long a node may take for its pods.
const PATIENCE: Duration = Duration::from_mins(10);
/// Until what a start has needed is given back, which daemons do once a minute.
const QUIET: Duration = Duration::from_secs(75);

#[derive(Debug, clap::Args)]
pub struct Args {
    /// How many pods, each of one container on the node's network (comma-separated)
    #[arg(long, value_delimiter = ',', default_values_t = [110, 250], value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pods: Vec<u32>,
    /// How long nothing happens while the kubelet is looked at
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
}

/// Measures, and gives a report in Markdown.
pub async fn run(args: &Args) -> anyhow::Result<String> {
    let mut report = format!(
        "On: {}\n\n| pods | all run after, s | kubelet, MB | of that its own, MB | CPU, % of a core | wake-ups a second |\n\
         |---:|---:|---:|---:|---:|---:|\n",
        machine::describe()
    );
    for &pods in &args.pods {
        let seen = look(pods, Duration::from_secs(args.seconds)).await?;
        // Writing to a string cannot fail.
        let _ = writeln!(
            report,
            "| {pods} | {:.1} | {:.1} | {:.1} | {:.2} | {:.1} |",
            seen.started.as_secs_f64(),
            machine::megabytes(seen.resident),
            machine::megabytes(seen.own),
            100.0 * seen.busy.as_secs_f64() / seen.looked_for.as_secs_f64(),
            f64::from(u32::try_from(seen.wake_ups)?) / seen.looked_for.as_secs_f64(),
        );
    }
    Ok(report)
}

/// A kubelet with all of its pods, while nothing happens.
struct Seen {
    /// From the kubelet's start, with all manifests there, to the last pod.
    started: Duration,
    resident: u64,
    own: u64,
    looked_for: Duration,
    busy: Duration,
    wake_ups: u64,
}

async fn look(pods: u32, looked_for: Duration) -> anyhow::Result<Seen> {
    let sandbox = Sandbox::new();
    let registry = Registry::shared().await;
    let image = Image::busybox().push(&registry, "plain:1")?;
    let mut node = Node::start(&sandbox, "bench").await;
    for number in 0..pods {
        let name = format!("pod-{number:04}");
        node.write_manifest(&format!("{name}.yaml"), &pods::flat_yaml(&name, &[("c", &image)]));
    }
    let start = Instant::now();
    node.start_kubelet::<String>([]);
    wait::until_within(PATIENCE, &format!("{pods} pods run"), || async {
        let running = node.tasks().await?.len();
        ensure!(running >= pods as usize, "{running} run");
        Ok(())
    })
    .await;
    let started = start.elapsed();
    tokio::time::sleep(QUIET).await;

    let pid = node.kubelet.pid();
    let (busy, woken) = (machine::process_cpu(pid)?, wake_ups(pid)?);
    tokio::time::sleep(looked_for).await;
    Ok(Seen {
        started,
        resident: machine::process_memory(pid, "VmRSS:")?,
        own: machine::process_memory(pid, "RssAnon:")?,
        looked_for,
        busy: machine::process_cpu(pid)?.saturating_sub(busy),
        wake_ups: wake_ups(pid)?.saturating_sub(woken),
    })
}

/// How often the threads of a process have gone to sleep by themselves (proc(5), voluntary_ctxt_switches).
fn wake_ups(pid: u32) -> anyhow::Result<u64> {
    let mut sum = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let status = fs::read_to_string(thread?.path().join("status"))?;
        let count = status
            .lines()
            .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))
            .context("no voluntary_ctxt_switches")?;
        sum += count.trim().parse::<u64>()?;
    }
    Ok(sum)
}
