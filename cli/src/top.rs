//! `c8s top`: what nodes and pods use, from the latest sample that each node has told.

use std::{collections::BTreeMap, io::Write, time::SystemTime};

use anyhow::{Result, anyhow, bail};
use clap::{Args, Subcommand, ValueEnum};
use clone8s::{
    client::{Query, Resource as _},
    mirror,
    object::Object,
    v1::{ContainerStats, Node, NodeStats, Pod},
};
use clone8s_daemon::{channel::Channel, clock};

use crate::{
    kind::label,
    output::{Scope, age, new_table, write_table},
    select::SelectArgs,
    status::explain,
};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  c8s top nodes
  c8s top pods -A --sort-by memory
  c8s top pod hello --containers
  c8s top pods -l app=web

A node tells a sample with each report of its status; SAMPLED says how old the latest is. CPU is in thousandths of a
core, over the last interval between samples; memory is what the kernel cannot take back at once.")]
pub struct TopArgs {
    #[command(subcommand)]
    of: Of,
}

#[derive(Debug, Subcommand)]
enum Of {
    /// What each node uses of what it has
    #[command(visible_aliases = ["node", "no"])]
    Nodes {
        /// The nodes [default: all]
        #[arg(value_name = "NODE")]
        names: Vec<String>,
        #[command(flatten)]
        order: Order,
    },
    /// What each pod uses
    #[command(visible_aliases = ["pod", "po"])]
    Pods {
        /// The pods [default: all]
        #[arg(value_name = "POD")]
        names: Vec<String>,
        #[command(flatten)]
        select: SelectArgs,
        #[command(flatten)]
        order: Order,
        /// A line for each container
        #[arg(long)]
        containers: bool,
    },
}

#[derive(Debug, Args)]
struct Order {
    /// What is the largest comes first [default: by name]
    #[arg(long, value_name = "WHAT")]
    sort_by: Option<By>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum By {
    Cpu,
    Memory,
}

pub async fn run(args: &TopArgs, channel: &Channel, out: &mut impl Write) -> Result<()> {
    let (nodes, _) = Node::list_all(channel, &Query::default())
        .await
        .map_err(|status| anyhow!(explain(&status)))?;
    let now = clock::now();
    match &args.of {
        Of::Nodes { names, order } => {
            let nodes = named(nodes, names)?;
            print(out, NODE_HEADER, order.apply(node_rows(&nodes, now)))
        }
        Of::Pods {
            names,
            select,
            order,
            containers,
        } => {
            let (pods, _) = Pod::list_all(channel, &select.query::<Pod>())
                .await
                .map_err(|status| anyhow!(explain(&status)))?;
            let pods = named(pods, names)?;
            let form = PodForm {
                namespaces: select.scope() == Scope::AllNamespaces,
                containers: *containers,
            };
            print(out, &form.header(), order.apply(form.rows(&pods, &nodes, now)))
        }
    }
}

/// Those of these names, or all without any.
fn named<O: Object>(mut objects: Vec<O>, names: &[String]) -> Result<Vec<O>> {
    if names.is_empty() {
        return Ok(objects);
    }
    let unknown = |name: &&String| !objects.iter().any(|object| object.name() == name.as_str());
    if let Some(name) = names.iter().find(unknown) {
        bail!("{} is not there", label::<O>(name));
    }
    objects.retain(|object| names.iter().any(|name| name == object.name()));
    Ok(objects)
}

/// A line, and what it can be sorted by.
#[derive(Debug)]
struct Row {
    use_of: Use,
    cells: Vec<String>,
}

/// None where there is no sample yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Use {
    nano_cores: Option<u64>,
    memory_bytes: Option<u64>,
}

impl Use {
    fn of_container(stats: &ContainerStats) -> Self {
        Self {
            nano_cores: stats.cpu.as_ref().map(|cpu| cpu.usage_nano_cores),
            memory_bytes: stats.memory.as_ref().map(|memory| memory.working_set_bytes),
        }
    }

    fn and(self, other: Self) -> Self {
        let sum = |a: Option<u64>, b: Option<u64>| match (a, b) {
            (Some(a), Some(b)) => Some(a.saturating_add(b)),
            (a, b) => a.or(b),
        };
        Self {
            nano_cores: sum(self.nano_cores, other.nano_cores),
            memory_bytes: sum(self.memory_bytes, other.memory_bytes),
        }
    }

    fn cells(self) -> [String; 2] {
        [cpu(self.nano_cores), memory(self.memory_bytes)]
    }
}

impl Order {
    fn apply(&self, mut rows: Vec<Row>) -> Vec<Row> {
        let Some(by) = self.sort_by else { return rows };
        // What is the same stays in the order of its names.
        rows.sort_by_key(|row| {
            std::cmp::Reverse(match by {
                By::Cpu => row.use_of.nano_cores,
                By::Memory => row.use_of.memory_bytes,
            })
        });
        rows
    }
}

fn print(out: &mut impl Write, header: &[&str], rows: Vec<Row>) -> Result<()> {
    if rows.is_empty() {
        eprintln!("nothing found");
        return Ok(());
    }
    let mut table = new_table();
    table.set_header(header.to_vec());
    for row in rows {
        table.add_row(row.cells);
    }
    write_table(out, &table)
}

const NODE_HEADER: &[&str] = &[
    "NAME", "CPU", "CPU%", "MEMORY", "MEMORY%", "DISK%", "LOAD", "SAMPLED",
];

fn node_rows(nodes: &[Node], now: SystemTime) -> Vec<Row> {
    nodes
        .iter()
        .map(|node| {
            let stats = stats_of(node).cloned().unwrap_or_default();
            let use_of = Use {
                nano_cores: stats.cpu.as_ref().map(|cpu| cpu.usage_nano_cores),
                memory_bytes: stats.memory.as_ref().map(|memory| memory.working_set_bytes),
            };
            let capacity = node.status.as_ref().and_then(|status| status.capacity.get("cpu"));
            let cores = capacity.and_then(|cpu| clone8s::quantity::milli_cpu(cpu).ok());
            let nano_cores = cores.and_then(|milli| u64::try_from(milli).ok()?.checked_mul(1_000_000));
            let total = stats.memory.as_ref().map(|memory| memory.total_bytes);
            // The first is the one that the node's capacity is about.
            let disk = stats.filesystems.first();
            let taken = disk.map(|disk| disk.capacity_bytes.saturating_sub(disk.available_bytes));
            let [cpu, memory] = use_of.cells();
            Row {
                use_of,
                cells: vec![
                    node.name().to_owned(),
                    cpu,
                    percent(use_of.nano_cores, nano_cores),
                    memory,
                    percent(use_of.memory_bytes, total),
                    percent(taken, disk.map(|disk| disk.capacity_bytes)),
                    or_nothing(stats.load.as_ref().map(|load| format!("{:.2}", load.one))),
                    or_nothing(sampled(&stats, now)),
                ],
            }
        })
        .collect()
}

fn stats_of(node: &Node) -> Option<&NodeStats> {
    node.status.as_ref()?.stats.as_ref()
}

/// Which columns and lines pods have.
#[derive(Debug, Clone, Copy)]
struct PodForm {
    namespaces: bool,
    containers: bool,
}

impl PodForm {
    fn header(self) -> Vec<&'static str> {
        let namespace = self.namespaces.then_some("NAMESPACE");
        let container = self.containers.then_some("CONTAINER");
        namespace
            .into_iter()
            .chain(["NAME"])
            .chain(container)
            .chain(["CPU", "MEMORY", "SAMPLED"])
            .collect()
    }

    fn rows(self, pods: &[Pod], nodes: &[Node], now: SystemTime) -> Vec<Row> {
        let mut samples = BTreeMap::new();
        for stats in nodes.iter().filter_map(stats_of) {
            for pod in &stats.pods {
                samples.insert(pod.uid.as_str(), (stats, pod));
            }
        }
        let rows_of = |pod: &Pod| {
            let sample = samples.get(mirror::uid_on_node(pod));
            let time = or_nothing(sample.and_then(|(stats, _)| sampled(stats, now)));
            let containers = sample
                .map(|(_, pod)| pod.containers.as_slice())
                .unwrap_or_default();
            if self.containers && !containers.is_empty() {
                // The earlier runs of a container that are still there are told under its name, too.
                let mut by_name = BTreeMap::<&str, Use>::new();
                for one in containers {
                    let all = by_name.entry(&one.name).or_default();
                    *all = all.and(Use::of_container(one));
                }
                let row = |(name, all): (&str, Use)| self.row(pod, name, all, &time);
                return by_name.into_iter().map(row).collect();
            }
            let all = containers
                .iter()
                .map(Use::of_container)
                .fold(Use::default(), Use::and);
            vec![self.row(pod, "-", all, &time)]
        };
        pods.iter().flat_map(rows_of).collect()
    }

    fn row(self, pod: &Pod, container: &str, use_of: Use, time: &str) -> Row {
        let namespace = self.namespaces.then(|| pod.namespace().to_owned());
        let container = self.containers.then(|| container.to_owned());
        Row {
            use_of,
            cells: namespace
                .into_iter()
                .chain([pod.name().to_owned()])
                .chain(container)
                .chain(use_of.cells())
                .chain([time.to_owned()])
                .collect(),
        }
    }
}

fn sampled(stats: &NodeStats, now: SystemTime) -> Option<String> {
    stats.time.as_ref().map(|time| age(Some(time), now))
}

fn cpu(nano_cores: Option<u64>) -> String {
    or_nothing(nano_cores.map(|nano| format!("{}m", nano.div_ceil(1_000_000))))
}

fn memory(bytes: Option<u64>) -> String {
    or_nothing(bytes.map(|bytes| format!("{}Mi", bytes.div_ceil(1 << 20))))
}

fn percent(part: Option<u64>, whole: Option<u64>) -> String {
    let share = part.zip(whole.filter(|whole| *whole > 0));
    or_nothing(share.map(|(part, whole)| format!("{}%", u128::from(part) * 100 / u128::from(whole))))
}

fn or_nothing(cell: Option<String>) -> String {
    cell.unwrap_or_else(|| "-".to_owned())
}

#[cfg(test)]
mod tests {
    use clone8s::v1::{CpuStats, NodeStatus, PodStats};

    use super::*;

    #[test]
    fn amounts_are_rounded_up_and_what_is_not_known_is_a_dash() {
        assert_eq!([cpu(Some(0)), cpu(Some(1)), cpu(None)], ["0m", "1m", "-"]);
        assert_eq!(
            [memory(Some(3 << 20)), memory(Some(1)), memory(None)],
            ["3Mi", "1Mi", "-"]
        );
        assert_eq!(
            [
                percent(Some(1), Some(3)),
                percent(Some(1), Some(0)),
                percent(None, Some(3))
            ],
            ["33%", "-", "-"]
        );
    }

    #[test]
    fn a_container_that_was_started_again_has_one_line() {
        let run = |nano_cores: Option<u64>| ContainerStats {
            name: "web".into(),
            cpu: nano_cores.map(|usage_nano_cores| CpuStats {
                usage_nano_cores,
                ..CpuStats::default()
            }),
            ..ContainerStats::default()
        };
        let node = Node {
            status: Some(NodeStatus {
                stats: Some(NodeStats {
                    pods: vec![PodStats {
                        uid: "u1".into(),
                        containers: vec![run(None), run(Some(5_000_000))],
                        ..PodStats::default()
                    }],
                    ..NodeStats::default()
                }),
                ..NodeStatus::default()
            }),
            ..Node::default()
        };
        let mut pod = Pod::default();
        pod.metadata_mut().name = "p".into();
        pod.metadata_mut().uid = "u1".into();
        let form = PodForm {
            namespaces: false,
            containers: true,
        };
        let cells: Vec<_> = form
            .rows(&[pod], &[node], SystemTime::UNIX_EPOCH)
            .into_iter()
            .map(|row| row.cells)
            .collect();
        assert_eq!(cells, [["p", "web", "5m", "-", "-"]]);
    }

    #[test]
    fn a_sum_is_of_what_is_known() {
        let of = |nano_cores, memory_bytes| Use {
            nano_cores,
            memory_bytes,
        };
        assert_eq!(of(Some(1), None).and(of(Some(2), Some(5))), of(Some(3), Some(5)));
        assert_eq!(Use::default().and(Use::default()), Use::default());
    }
}
