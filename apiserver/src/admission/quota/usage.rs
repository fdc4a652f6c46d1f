//! What objects take of what quotas count.

use std::ops::{AddAssign, SubAssign};

use clone8s::{
    quantity::Quantity,
    v1::{Container, Pod},
};

/// What one object takes, or many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Objects of a kind, by its plural.
    pub(super) of_kind: (&'static str, usize),
    pods: Quantity,
    requests: Amounts,
    limits: Amounts,
    /// Of these a container says nothing.
    silent: Silent,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Amounts {
    cpu: Quantity,
    memory: Quantity,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Silent {
    cpu_request: bool,
    memory_request: bool,
    cpu_limit: bool,
    memory_limit: bool,
}

const NOTHING: Amounts = Amounts {
    cpu: Quantity::ZERO,
    memory: Quantity::ZERO,
};

impl Default for Usage {
    fn default() -> Self {
        Self::one_of("", 0)
    }
}

impl Usage {
    /// So many objects of a kind, of which nothing but their number counts.
    pub(crate) fn one_of(plural: &'static str, count: usize) -> Self {
        Self {
            of_kind: (plural, count),
            pods: Quantity::ZERO,
            requests: NOTHING,
            limits: NOTHING,
            silent: Silent::default(),
        }
    }

    /// A pod that has ended takes nothing.
    pub(crate) fn of_pod(pod: &Pod) -> Self {
        let ended = |phase: &str| matches!(phase, "Succeeded" | "Failed");
        if pod.status.as_ref().is_some_and(|status| ended(&status.phase)) {
            return Self::one_of("pods", 0);
        }
        let mut usage = Self::one_of("pods", 1);
        usage.pods = Quantity::from_count(1);
        for container in pod.spec.iter().flat_map(|spec| &spec.containers) {
            usage.add_container(container);
        }
        usage
    }

    fn add_container(&mut self, container: &Container) {
        let resources = container.resources.clone().unwrap_or_default();
        let amount = |text: Option<&String>| text.and_then(|text| text.parse::<Quantity>().ok());
        let take = |total: &mut Quantity, silent: &mut bool, amount: Option<Quantity>| match amount {
            Some(amount) => *total = *total + amount,
            None => *silent = true,
        };
        let (requests, limits, silent) = (&mut self.requests, &mut self.limits, &mut self.silent);
        let request = |name| amount(resources.requests.get(name));
        let limit = |name| amount(resources.limits.get(name));
        take(&mut requests.cpu, &mut silent.cpu_request, request("cpu"));
        take(
            &mut requests.memory,
            &mut silent.memory_request,
            request("memory"),
        );
        take(&mut limits.cpu, &mut silent.cpu_limit, limit("cpu"));
        take(&mut limits.memory, &mut silent.memory_limit, limit("memory"));
    }

    /// How much it is of what a quota calls so; None for what it is not counted as.
    pub(super) fn of(&self, name: &str) -> Option<Quantity> {
        let (plural, count) = self.of_kind;
        if name.strip_prefix("count/") == Some(plural) {
            return Some(Quantity::from_count(i64::try_from(count).unwrap_or(i64::MAX)));
        }
        if plural != "pods" {
            return None;
        }
        Some(match name {
            "pods" => self.pods,
            "cpu" | "requests.cpu" => self.requests.cpu,
            "memory" | "requests.memory" => self.requests.memory,
            "limits.cpu" => self.limits.cpu,
            "limits.memory" => self.limits.memory,
            _ => return None,
        })
    }

    /// True where a container does not say what the quota counts.
    pub(super) fn leaves_out(&self, name: &str) -> bool {
        match name {
            "cpu" | "requests.cpu" => self.silent.cpu_request,
            "memory" | "requests.memory" => self.silent.memory_request,
            "limits.cpu" => self.silent.cpu_limit,
            "limits.memory" => self.silent.memory_limit,
            _ => false,
        }
    }
}

impl AddAssign<&Self> for Usage {
    fn add_assign(&mut self, more: &Self) {
        self.of_kind.1 += more.of_kind.1;
        self.pods = self.pods + more.pods;
        self.requests.cpu = self.requests.cpu + more.requests.cpu;
        self.requests.memory = self.requests.memory + more.requests.memory;
        self.limits.cpu = self.limits.cpu + more.limits.cpu;
        self.limits.memory = self.limits.memory + more.limits.memory;
    }
}

impl SubAssign<&Self> for Usage {
    fn sub_assign(&mut self, less: &Self) {
        self.of_kind.1 = self.of_kind.1.saturating_sub(less.of_kind.1);
        self.pods = self.pods - less.pods;
        self.requests.cpu = self.requests.cpu - less.requests.cpu;
        self.requests.memory = self.requests.memory - less.requests.memory;
        self.limits.cpu = self.limits.cpu - less.limits.cpu;
        self.limits.memory = self.limits.memory - less.limits.memory;
    }
}
