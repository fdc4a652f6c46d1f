//! From quantities to what the kernel's cgroups take.

use std::{collections::BTreeMap, fmt};

use clone8s::{
    cri::{HugepageLimit, LinuxContainerResources},
    huge_pages::PageSize,
    quantity::{self, Quantity, QuantityError},
    v1::{Container, PodSpec, ResourceRequirements},
};
use clone8s_daemon::cgroups::Limits;

/// The length of a CPU accounting period, in microseconds.
const PERIOD: i64 = 100_000;
/// The shortest quota that the kernel takes, in microseconds.
const SHORTEST_QUOTA: i64 = 1_000;
/// One core's worth of weight, and the least there is.
const SHARES_OF_A_CORE: i64 = 1_024;
pub(crate) const LEAST_SHARES: i64 = 2;

/// A container's limits. `node_memory` is the node's, in bytes: the more of it a container asks for, the later the
/// kernel kills it. `page_sizes` are the node's, and a container has no huge pages of those that it does not name.
pub fn limits(
    spec: &PodSpec,
    container: &Container,
    node_memory: i64,
    page_sizes: &[PageSize],
) -> Result<LinuxContainerResources, QuantityError> {
    let amounts = Amounts::parse(container.resources.as_ref())?;
    let allocation = Allocation::from(amounts);
    Ok(LinuxContainerResources {
        cpu_shares: allocation.cpu_shares,
        cpu_period: allocation.cpu_quota.map_or(0, |_| PERIOD),
        cpu_quota: allocation.cpu_quota.unwrap_or(0),
        memory_limit_in_bytes: allocation.memory.unwrap_or(0),
        oom_score_adj: oom_score_adj(spec, &amounts, node_memory)?,
        hugepage_limits: of_every_size(page_sizes, &container.huge_pages()?)
            .map(|(size, limit)| HugepageLimit {
                page_size: size.cgroup_name(),
                limit,
            })
            .collect(),
        ..Default::default()
    })
}

/// The bytes of each size that there is, on the node or among those that are asked for.
fn of_every_size(
    page_sizes: &[PageSize],
    asked: &BTreeMap<PageSize, u64>,
) -> impl Iterator<Item = (PageSize, u64)> {
    let mut all: BTreeMap<_, _> = page_sizes.iter().map(|size| (*size, 0)).collect();
    all.extend(asked);
    all.into_iter()
}

/// What a container has of its node, as far as it can change while the container runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allocation {
    /// Its weight beside others.
    cpu_shares: i64,
    /// Microseconds in each period; None is no limit.
    cpu_quota: Option<i64>,
    /// Bytes; None is no limit.
    memory: Option<i64>,
}

impl Allocation {
    /// As its spec asks for.
    pub fn wanted(container: &Container) -> Result<Self, QuantityError> {
        Amounts::parse(container.resources.as_ref()).map(Self::from)
    }

    /// As the runtime says that it is.
    pub fn told(resources: &LinuxContainerResources) -> Self {
        let limit = |value: i64| (value > 0).then_some(value);
        Self {
            cpu_shares: resources.cpu_shares,
            cpu_quota: limit(resources.cpu_quota),
            memory: limit(resources.memory_limit_in_bytes),
        }
    }

    /// As [`fmt::Display`] writes it.
    pub fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let mut limit = || match words.next()? {
            "-" => Some(None),
            number => number.parse().ok().map(Some),
        };
        Some(Self {
            cpu_shares: limit()??,
            cpu_quota: limit()?,
            memory: limit()?,
        })
    }

    /// CRI v1, UpdateContainerResources: 0 leaves a limit as it is, and -1 takes it away.
    pub fn to_change(self) -> LinuxContainerResources {
        const NO_LIMIT: i64 = -1;
        LinuxContainerResources {
            cpu_shares: self.cpu_shares,
            cpu_period: PERIOD,
            cpu_quota: self.cpu_quota.unwrap_or(NO_LIMIT),
            memory_limit_in_bytes: self.memory.unwrap_or(NO_LIMIT),
            ..Default::default()
        }
    }
}

/// The weight of a pod among others.
pub(crate) fn pod_shares(spec: &PodSpec) -> Result<i64, QuantityError> {
    let asked = |container: &Container| {
        let amounts = Amounts::parse(container.resources.as_ref())?;
        Ok(amounts.cpu_request.or(amounts.cpu_limit).unwrap_or(0))
    };
    let milli = spec.most_at_once(
        asked,
        |sum, more| *sum += more,
        |most, other| *most = other.max(*most),
    )?;
    Ok(shares(milli))
}

/// What all containers of a pod are held to together: no less than each has (by name) or is to have, so that a resize is
/// safe in either direction. A resource that one of them is not held to has no limit.
pub(crate) fn pod_limits(
    spec: &PodSpec,
    has: &BTreeMap<String, Allocation>,
    page_sizes: &[PageSize],
) -> Result<Limits, QuantityError> {
    const NO_LIMIT: i64 = -1;
    let held = |container: &Container| {
        let wanted = Held::to(Allocation::wanted(container)?);
        let has = has.get(&container.name).map_or(wanted, |has| Held::to(*has));
        Ok(wanted.raised_to(has))
    };
    let sum = spec.most_at_once(
        held,
        |sum: &mut Held, more| *sum = sum.beside(more),
        |most, other| *most = most.raised_to(other),
    )?;
    let huge_pages = spec.most_at_once(Container::huge_pages, add_pages, raise_pages)?;
    Ok(Limits {
        cpu_shares: pod_shares(spec)?,
        cpu_period: PERIOD,
        cpu_quota: sum.cpu_quota.unwrap_or(NO_LIMIT),
        memory: sum.memory.unwrap_or(NO_LIMIT),
        huge_pages: of_every_size(page_sizes, &huge_pages)
            .map(|(size, limit)| (size.cgroup_name(), limit))
            .collect(),
        ..Limits::default()
    })
}

fn add_pages(sum: &mut BTreeMap<PageSize, u64>, more: BTreeMap<PageSize, u64>) {
    for (size, bytes) in more {
        let sum = sum.entry(size).or_default();
        *sum = sum.saturating_add(bytes);
    }
}

fn raise_pages(most: &mut BTreeMap<PageSize, u64>, other: BTreeMap<PageSize, u64>) {
    for (size, bytes) in other {
        let most = most.entry(size).or_default();
        *most = bytes.max(*most);
    }
}

/// What containers are held to together; None is no limit.
#[derive(Debug, Clone, Copy)]
struct Held {
    cpu_quota: Option<i64>,
    memory: Option<i64>,
}

impl Held {
    fn to(has: Allocation) -> Self {
        Self {
            cpu_quota: has.cpu_quota,
            memory: has.memory,
        }
    }

    fn beside(self, other: Self) -> Self {
        let sum = |one: Option<i64>, other: Option<i64>| Some(one?.saturating_add(other?));
        Self {
            cpu_quota: sum(self.cpu_quota, other.cpu_quota),
            memory: sum(self.memory, other.memory),
        }
    }

    fn raised_to(self, other: Self) -> Self {
        let greater = |one: Option<i64>, other: Option<i64>| Some(one?.max(other?));
        Self {
            cpu_quota: greater(self.cpu_quota, other.cpu_quota),
            memory: greater(self.memory, other.memory),
        }
    }
}

impl Default for Held {
    /// Of no container.
    fn default() -> Self {
        Self {
            cpu_quota: Some(0),
            memory: Some(0),
        }
    }
}

/// What a container with this allocation is held to, as its spec would say it.
pub fn in_effect(container: &Container, has: Allocation) -> Option<ResourceRequirements> {
    if Allocation::wanted(container).is_ok_and(|wanted| wanted == has) {
        return container.resources.clone();
    }
    let mut resources = container.resources.clone().unwrap_or_default();
    let milli = |quota: i64| Quantity::from_milli(quota.saturating_mul(1_000) / PERIOD);
    let mut set = |name: &str, limit: Option<Quantity>| match limit {
        Some(limit) => drop(resources.limits.insert(name.to_owned(), limit.to_string())),
        None => drop(resources.limits.remove(name)),
    };
    set("cpu", has.cpu_quota.map(milli));
    set("memory", has.memory.map(Quantity::from_bytes));
    if has.cpu_shares > LEAST_SHARES {
        // A share is more than a thousandth of a core: rounded up, it is what was asked for.
        let asked = (has.cpu_shares.saturating_mul(1_000) + SHARES_OF_A_CORE - 1) / SHARES_OF_A_CORE;
        let asked = Quantity::from_milli(asked).to_string();
        resources.requests.insert("cpu".to_owned(), asked);
    }
    Some(resources)
}

impl fmt::Display for Allocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = |limit: Option<i64>| limit.map_or_else(|| "-".to_owned(), |limit| limit.to_string());
        write!(
            f,
            "{} {} {}",
            self.cpu_shares,
            word(self.cpu_quota),
            word(self.memory)
        )
    }
}

/// The weight of thousandths of a core.
pub(crate) fn shares(milli_cpu: i64) -> i64 {
    (milli_cpu.saturating_mul(SHARES_OF_A_CORE) / 1_000).max(LEAST_SHARES)
}

impl From<Amounts> for Allocation {
    fn from(amounts: Amounts) -> Self {
        let cpu_shares = shares(amounts.cpu_request.or(amounts.cpu_limit).unwrap_or(0));
        let cpu_limit = amounts.cpu_limit.filter(|milli| *milli > 0);
        Self {
            cpu_shares,
            cpu_quota: cpu_limit.map(|milli| (milli.saturating_mul(PERIOD) / 1_000).max(SHORTEST_QUOTA)),
            memory: amounts.memory_limit.filter(|bytes| *bytes > 0),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Amounts {
    cpu_request: Option<i64>,
    cpu_limit: Option<i64>,
    memory_request: Option<i64>,
    memory_limit: Option<i64>,
}

impl Amounts {
    fn parse(resources: Option<&ResourceRequirements>) -> Result<Self, QuantityError> {
        let milli = |text: Option<&String>| text.map(|text| quantity::milli_cpu(text)).transpose();
        let bytes = |text: Option<&String>| text.map(|text| quantity::bytes(text)).transpose();
        let limits = resources.map(|resources| &resources.limits);
        let requests = resources.map(|resources| &resources.requests);
        Ok(Self {
            cpu_request: milli(requests.and_then(|amounts| amounts.get("cpu")))?,
            cpu_limit: milli(limits.and_then(|amounts| amounts.get("cpu")))?,
            memory_request: bytes(requests.and_then(|amounts| amounts.get("memory")))?,
            memory_limit: bytes(limits.and_then(|amounts| amounts.get("memory")))?,
        })
    }

    /// What it asks for is what it is held to.
    fn is_guaranteed(&self) -> bool {
        let held = |request: Option<i64>, limit: Option<i64>| {
            limit.is_some_and(|limit| limit > 0 && request.unwrap_or(limit) == limit)
        };
        held(self.cpu_request, self.cpu_limit) && held(self.memory_request, self.memory_limit)
    }

    fn is_best_effort(&self) -> bool {
        [
            self.cpu_request,
            self.cpu_limit,
            self.memory_request,
            self.memory_limit,
        ]
        .iter()
        .all(|amount| amount.unwrap_or(0) == 0)
    }
}

/// Kubernetes' classes of pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QosClass {
    /// Every container is held to what it asks for.
    Guaranteed,
    Burstable,
    /// No container asks for anything.
    BestEffort,
}

impl QosClass {
    pub fn of(spec: &PodSpec) -> Result<Self, QuantityError> {
        let all = spec
            .all_containers()
            .map(|container| Amounts::parse(container.resources.as_ref()))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(if all.iter().all(Amounts::is_best_effort) {
            Self::BestEffort
        } else if all.iter().all(Amounts::is_guaranteed) {
            Self::Guaranteed
        } else {
            Self::Burstable
        })
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }
}

/// Kubernetes' order of dying: pods that ask for nothing first, those that get exactly what they ask for last.
fn oom_score_adj(spec: &PodSpec, own: &Amounts, node_memory: i64) -> Result<i64, QuantityError> {
    match QosClass::of(spec)? {
        QosClass::BestEffort => return Ok(1_000),
        QosClass::Guaranteed => return Ok(-997),
        QosClass::Burstable => {}
    }
    let request = own.memory_request.or(own.memory_limit).unwrap_or(0);
    let share = i128::from(request) * 1_000 / i128::from(node_memory.max(1));
    let adjusted = 1_000 - i64::try_from(share).unwrap_or(1_000);
    Ok(adjusted.clamp(3, 999))
}

#[cfg(test)]
mod tests;
