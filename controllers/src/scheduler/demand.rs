//! What a pod asks of a node.

use std::collections::BTreeMap;

use clone8s::{
    devices::is_device,
    quantity,
    v1::{Container, Pod},
};

/// Amounts by resource name: cpu in thousandths of a core, everything else in wholes (bytes, counts).
pub type Amounts = BTreeMap<String, i128>;

/// What the scheduler needs to know of a pod.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Demand {
    pub requests: Amounts,
    pub host_ports: Vec<HostPort>,
    /// Labels that the node must carry.
    pub node_selector: BTreeMap<String, String>,
}

/// A port that the pod takes on its node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    pub protocol: String,
    /// Empty means every address.
    pub address: String,
    pub port: i32,
}

impl HostPort {
    pub fn conflicts(&self, other: &Self) -> bool {
        let any = |address: &str| matches!(address, "" | "0.0.0.0" | "::");
        self.port == other.port
            && self.protocol == other.protocol
            && (self.address == other.address || any(&self.address) || any(&other.address))
    }
}

impl Demand {
    /// Reads a pod's spec. An error is a sentence for the pod's status.
    pub fn of(pod: &Pod) -> Result<Self, String> {
        let Some(spec) = &pod.spec else {
            return Ok(Self::default());
        };
        let mut demand = Self {
            node_selector: spec.node_selector.clone(),
            ..Self::default()
        };
        demand.requests = spec.most_at_once(requests_of, add, raise)?;
        for container in spec.all_containers() {
            demand.host_ports.extend(host_ports(container, spec.host_network));
        }
        Ok(demand)
    }
}

/// Reads amounts such as a node's allocatable.
pub(super) fn amounts(quantities: &BTreeMap<String, String>) -> Result<Amounts, String> {
    quantities
        .iter()
        .map(|(resource, quantity)| {
            let read = if resource == "cpu" {
                quantity::milli_cpu
            } else {
                quantity::bytes
            };
            let amount = read(quantity).map_err(|error| format!("{resource}: {error}"))?;
            Ok((resource.clone(), i128::from(amount)))
        })
        .collect()
}

fn requests_of(container: &Container) -> Result<Amounts, String> {
    let Some(resources) = &container.resources else {
        return Ok(Amounts::new());
    };
    // A limit without a request is a request too, as in Kubernetes.
    let mut requests = resources.limits.clone();
    requests.extend(resources.requests.clone());
    // What devices a node has, its runtime alone knows; who needs one says by labels where it is.
    requests.retain(|name, _| !is_device(name));
    amounts(&requests)
}

fn add(total: &mut Amounts, more: Amounts) {
    for (resource, amount) in more {
        let sum = total.entry(resource).or_default();
        *sum = sum.saturating_add(amount);
    }
}

fn raise(most: &mut Amounts, other: Amounts) {
    for (resource, amount) in other {
        let known = most.entry(resource).or_default();
        *known = amount.max(*known);
    }
}

fn host_ports(container: &Container, host_network: bool) -> impl Iterator<Item = HostPort> {
    container.ports.iter().filter_map(move |port| {
        // On the host network a container's port is the node's port, whether it says so or not.
        let taken = if host_network {
            port.container_port
        } else {
            port.host_port
        };
        (taken > 0).then(|| HostPort {
            protocol: if port.protocol.is_empty() {
                "TCP".to_owned()
            } else {
                port.protocol.clone()
            },
            address: port.host_ip.clone(),
            port: taken,
        })
    })
}

#[cfg(test)]
mod tests {
    use clone8s::v1::{PodSpec, ResourceRequirements};
    use rstest::rstest;

    use super::*;

    fn asking(cpu: &str, restart_policy: &str) -> Container {
        Container {
            restart_policy: restart_policy.to_owned(),
            resources: Some(ResourceRequirements {
                requests: [("cpu".to_owned(), cpu.to_owned())].into(),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    #[rstest]
    #[case::containers_alone(&[], &["1", "500m"], 1_500)]
    #[case::a_large_init_container(&[("4", "")], &["1"], 4_000)]
    #[case::init_containers_do_not_add_up(&[("2", ""), ("3", "")], &["1"], 3_000)]
    #[case::a_sidecar_adds_to_the_containers(&[("1", "Always")], &["1"], 2_000)]
    #[case::a_sidecar_adds_to_init_containers_after_it(&[("1", "Always"), ("4", "")], &["1"], 5_000)]
    #[case::a_sidecar_adds_to_none_before_it(&[("4", ""), ("1", "Always")], &["2"], 4_000)]
    fn a_pod_asks_for_the_most_that_runs_at_one_time(
        #[case] init: &[(&str, &str)],
        #[case] containers: &[&str],
        #[case] milli_cpu: i128,
    ) {
        let spec = PodSpec {
            init_containers: init.iter().map(|(cpu, policy)| asking(cpu, policy)).collect(),
            containers: containers.iter().map(|cpu| asking(cpu, "")).collect(),
            ..Default::default()
        };
        let pod = Pod {
            spec: Some(spec),
            ..Default::default()
        };
        assert_eq!(Demand::of(&pod).unwrap().requests["cpu"], milli_cpu);
    }

    #[test]
    fn a_device_is_no_amount_that_nodes_have() {
        let mut container = asking("1", "");
        let limits = &mut container.resources.as_mut().unwrap().limits;
        limits.insert("vendor.com/gpu=0".to_owned(), "1".to_owned());
        let spec = PodSpec {
            containers: vec![container],
            ..Default::default()
        };
        let pod = Pod {
            spec: Some(spec),
            ..Default::default()
        };
        let demand = Demand::of(&pod).unwrap();
        assert_eq!(
            demand.requests.into_iter().collect::<Vec<_>>(),
            [("cpu".to_owned(), 1_000)]
        );
    }
}
