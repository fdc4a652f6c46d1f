//! Which resolver a pod gets.

use clone8s::{
    cri::DnsConfig,
    v1::{PodDnsConfig, PodSpec},
};

/// The most that resolvers take from a resolv.conf.
const MAX_NAMESERVERS: usize = 3;

/// None leaves the choice to the runtime, which gives the sandbox the node's own resolv.conf. `node` is that file's
/// text: a pod's own settings come after the node's, except under the policy None, where they stand alone.
pub fn config(spec: &PodSpec, node: &str) -> Option<DnsConfig> {
    let alone = spec.dns_policy == "None";
    if !alone && spec.dns_config.is_none() {
        return None;
    }
    let mut config = if alone { DnsConfig::default() } else { parse(node) };
    if let Some(own) = &spec.dns_config {
        add(&mut config, own);
    }
    config.servers.truncate(MAX_NAMESERVERS);
    Some(config)
}

fn add(config: &mut DnsConfig, own: &PodDnsConfig) {
    let PodDnsConfig {
        nameservers,
        searches,
        options,
    } = own;
    append_new(&mut config.servers, nameservers.iter().cloned());
    append_new(&mut config.searches, searches.iter().cloned());
    for option in options {
        let written = if option.value.is_empty() {
            option.name.clone()
        } else {
            format!("{}:{}", option.name, option.value)
        };
        // The pod's value takes the place of the node's.
        config
            .options
            .retain(|old| old.split(':').next() != Some(option.name.as_str()));
        config.options.push(written);
    }
}

fn append_new(list: &mut Vec<String>, more: impl Iterator<Item = String>) {
    for item in more {
        if !list.contains(&item) {
            list.push(item);
        }
    }
}

fn parse(resolv_conf: &str) -> DnsConfig {
    let mut config = DnsConfig::default();
    for line in resolv_conf.lines() {
        let mut words = line.split_whitespace();
        let Some(keyword) = words.next() else { continue };
        let values = words
            .take_while(|word| !word.starts_with(['#', ';']))
            .map(str::to_owned);
        match keyword {
            "nameserver" => config.servers.extend(values.take(1)),
            // The last one counts (resolv.conf(5)).
            "search" | "domain" => config.searches = values.collect(),
            "options" => config.options.extend(values),
            _ => {}
        }
    }
    config
}

#[cfg(test)]
mod tests {
    use clone8s::v1::PodDnsConfigOption;

    use super::*;

    const NODE: &str = "# made by hand\nnameserver 10.1.1.1\nsearch old.example\nsearch lan.example corp.example\n\
                        options ndots:2 rotate\n";

    fn spec(policy: &str, own: Option<PodDnsConfig>) -> PodSpec {
        PodSpec {
            dns_policy: policy.into(),
            dns_config: own,
            ..Default::default()
        }
    }

    fn own() -> PodDnsConfig {
        PodDnsConfig {
            nameservers: vec!["10.2.2.2".into(), "10.1.1.1".into()],
            searches: vec!["pod.example".into()],
            options: vec![PodDnsConfigOption {
                name: "ndots".into(),
                value: "5".into(),
            }],
        }
    }

    #[test]
    fn without_settings_of_its_own_a_pod_gets_the_nodes_resolver() {
        assert_eq!(config(&spec("ClusterFirst", None), NODE), None);
        assert_eq!(config(&spec("Default", None), NODE), None);
    }

    #[test]
    fn settings_of_the_pod_come_after_the_nodes() {
        let config = config(&spec("Default", Some(own())), NODE).unwrap();
        assert_eq!(config.servers, ["10.1.1.1", "10.2.2.2"]);
        assert_eq!(config.searches, ["lan.example", "corp.example", "pod.example"]);
        assert_eq!(config.options, ["rotate", "ndots:5"]);
    }

    #[test]
    fn under_the_policy_none_they_stand_alone() {
        let config = config(&spec("None", Some(own())), NODE).unwrap();
        assert_eq!(config.servers, ["10.2.2.2", "10.1.1.1"]);
        assert_eq!(config.searches, ["pod.example"]);
    }
}
