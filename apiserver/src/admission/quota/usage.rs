//! What objects take of what quotas count.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    ops::{AddAssign, SubAssign},
};

use clone8s::{
    mirror::is_mirror,
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

/// What containers take at one time.
#[derive(Debug, Clone, Copy)]
struct Taken {
    requests: Amounts,
    limits: Amounts,
}

impl Default for Taken {
    fn default() -> Self {
        Self {
            requests: NOTHING,
            limits: NOTHING,
        }
    }
}

impl Taken {
    /// What is not said is nothing.
    fn by(container: &Container) -> Self {
        let resources = container.resources.clone().unwrap_or_default();
        Self {
            requests: Amounts::of(&resources.requests),
            limits: Amounts::of(&resources.limits),
        }
    }
}

impl Amounts {
    fn of(texts: &BTreeMap<String, String>) -> Self {
        let amount = |name: &str| texts.get(name).and_then(|text| text.parse().ok());
        Self {
            cpu: amount("cpu").unwrap_or(Quantity::ZERO),
            memory: amount("memory").unwrap_or(Quantity::ZERO),
        }
    }

    fn add(&mut self, more: Self) {
        self.cpu = self.cpu + more.cpu;
        self.memory = self.memory + more.memory;
    }

    fn raise(&mut self, other: Self) {
        self.cpu = self.cpu.max(other.cpu);
        self.memory = self.memory.max(other.memory);
    }
}

impl Silent {
    fn note(&mut self, container: &Container) {
        let resources = container.resources.clone().unwrap_or_default();
        let says = |texts: &BTreeMap<String, String>, name: &str| {
            texts
                .get(name)
                .is_some_and(|text| text.parse::<Quantity>().is_ok())
        };
        self.cpu_request |= !says(&resources.requests, "cpu");
        self.memory_request |= !says(&resources.requests, "memory");
        self.cpu_limit |= !says(&resources.limits, "cpu");
        self.memory_limit |= !says(&resources.limits, "memory");
    }
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

    /// A pod that has ended takes nothing, and a mirror nothing that a quota could refuse.
    pub(crate) fn of_pod(pod: &Pod) -> Self {
        let ended = |phase: &str| matches!(phase, "Succeeded" | "Failed");
        if pod.status.as_ref().is_some_and(|status| ended(&status.phase)) || is_mirror(pod) {
            return Self::one_of("pods", 0);
        }
        let mut usage = Self::one_of("pods", 1);
        usage.pods = Quantity::from_count(1);
        let Some(spec) = &pod.spec else { return usage };
        for container in spec.all_containers() {
            usage.silent.note(container);
        }
        let most = spec.most_at_once(
            |container| Ok::<_, Infallible>(Taken::by(container)),
            |total, more| {
                total.requests.add(more.requests);
                total.limits.add(more.limits);
            },
            |most, other| {
                most.requests.raise(other.requests);
                most.limits.raise(other.limits);
            },
        );
        let Ok(most) = most;
        (usage.requests, usage.limits) = (most.requests, most.limits);
        usage
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
        self.requests.add(more.requests);
        self.limits.add(more.limits);
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

#[cfg(test)]
mod tests {
    use clone8s::v1::{PodSpec, ResourceRequirements};

    use super::*;

    #[test]
    fn init_containers_count_as_they_run_and_each_says_what_is_counted() {
        let container = |cpu: &str, restart_policy: &str| Container {
            restart_policy: restart_policy.into(),
            resources: Some(ResourceRequirements {
                requests: [("cpu".to_owned(), cpu.to_owned())].into(),
                ..ResourceRequirements::default()
            }),
            ..Container::default()
        };
        let mut spec = PodSpec {
            init_containers: vec![container("5", ""), container("1", "Always")],
            containers: vec![container("2", ""), container("1", "")],
            ..PodSpec::default()
        };
        let usage = |spec: &PodSpec| {
            Usage::of_pod(&Pod {
                spec: Some(spec.clone()),
                ..Pod::default()
            })
        };
        assert_eq!(usage(&spec).of("requests.cpu"), Some(Quantity::from_count(5)));
        assert!(!usage(&spec).leaves_out("requests.cpu"));
        spec.init_containers[0].resources = None;
        assert_eq!(usage(&spec).of("requests.cpu"), Some(Quantity::from_count(4)));
        assert!(usage(&spec).leaves_out("requests.cpu"));
    }
}
