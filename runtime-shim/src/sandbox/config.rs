//! What a sandbox's config asks for, checked.

use std::net::IpAddr;

use clone8s::cri;

use crate::{
    error::{Error, Result},
    ids::SandboxId,
    network::{PortMapping, Protocol},
    oci::not_a_plain_path,
    pins::IdMappings,
};

/// On a sandbox: the address that its pod must have.
const FIXED_ADDRESS: &str = "clone8s.io/pod-ip";

/// The options, or CRI's zeros for them: everything the pod's own, and its containers share their processes.
pub(crate) fn namespace_options(config: &cri::PodSandboxConfig) -> cri::NamespaceOption {
    let linux = config.linux.as_ref();
    linux
        .and_then(|linux| linux.security_context.as_ref())
        .and_then(|security| security.namespace_options.clone())
        .unwrap_or_default()
}

/// Whether its containers may be privileged.
pub(crate) fn is_privileged(config: &cri::PodSandboxConfig) -> bool {
    let security = config
        .linux
        .as_ref()
        .and_then(|linux| linux.security_context.as_ref());
    security.is_some_and(|security| security.privileged)
}

/// What is wrong with a config in itself, by field.
pub(super) fn check(config: &cri::PodSandboxConfig) -> Result<()> {
    let refuse = |field: &str, problem: String| Err(Error::invalid(format!("config.{field}"), problem));
    if config
        .metadata
        .as_ref()
        .is_none_or(|metadata| metadata.name.is_empty())
    {
        return refuse("metadata.name", "missing".into());
    }
    let is_name = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    if !config.hostname.chars().all(is_name) || config.hostname.len() > 253 {
        let problem = format!("{:?} is no host name (RFC 1123)", config.hostname);
        return refuse("hostname", problem);
    }
    if !config.log_directory.is_empty()
        && let Some(problem) = not_a_plain_path(&config.log_directory)
    {
        return refuse("log_directory", format!("{:?} {problem}", config.log_directory));
    }
    if let Some(linux) = &config.linux {
        let parent = &linux.cgroup_parent;
        if parent.split('/').any(|part| part == ".." || part == ".") || parent.contains('\0') {
            return refuse("linux.cgroup_parent", format!("{parent:?} must not lead up"));
        }
    }
    Ok(())
}

/// Whom of the host its users are; none where they are the host's own.
pub(crate) fn user_mappings(config: &cri::PodSandboxConfig) -> Result<Option<IdMappings>> {
    IdMappings::of_sandbox(&namespace_options(config))
}

pub(super) fn hostname(config: &cri::PodSandboxConfig) -> String {
    let name = match config.hostname.as_str() {
        "" => config
            .metadata
            .as_ref()
            .map(|metadata| as_hostname(&metadata.name))
            .unwrap_or_default(),
        name => name.to_owned(),
    };
    // The kernel's limit (uname(2), __NEW_UTS_LEN).
    name.chars().take(64).collect()
}

/// Whether the pod's cgroup is one that the caller named, and so his to keep.
pub(super) fn has_cgroup_of_caller(config: &cri::PodSandboxConfig) -> bool {
    let linux = config.linux.as_ref();
    linux.is_some_and(|linux| !linux.cgroup_parent.trim_matches('/').is_empty())
}

/// A pod's name as the host name of its containers.
fn as_hostname(name: &str) -> String {
    let kept = |c: char| {
        if c.is_ascii_alphanumeric() || "-._".contains(c) {
            c
        } else {
            '-'
        }
    };
    name.chars().map(kept).collect()
}

/// The cgroup of a sandbox whose caller names none.
pub(super) fn own_cgroup_parent(id: &SandboxId) -> String {
    format!("/clone8s/{id}")
}

pub(super) fn cgroup_parent(config: &cri::PodSandboxConfig, id: &SandboxId) -> String {
    let parent = config
        .linux
        .as_ref()
        .map(|linux| linux.cgroup_parent.trim_matches('/'))
        .unwrap_or_default();
    match parent {
        "" => own_cgroup_parent(id),
        parent => format!("/{parent}"),
    }
}

/// What a sandbox is to the one who asked for it: no two of these at a time.
pub(super) fn name(metadata: &cri::PodSandboxMetadata) -> String {
    format!(
        "{}/{} {} attempt {}",
        metadata.namespace, metadata.name, metadata.uid, metadata.attempt
    )
}

/// Port mappings that concern the host; the others only document the pod.
pub(super) fn port_mappings(config: &cri::PodSandboxConfig) -> Result<Vec<PortMapping>> {
    let port = |port: i32| {
        u16::try_from(port).map_err(|_| Error::invalid("port_mappings", format!("no port {port}")))
    };
    let mapped = config
        .port_mappings
        .iter()
        .filter(|mapping| mapping.host_port != 0);
    mapped
        .map(|mapping| {
            Ok(PortMapping {
                host_port: port(mapping.host_port)?,
                container_port: port(mapping.container_port)?,
                protocol: match mapping.protocol() {
                    cri::Protocol::Tcp => Protocol::Tcp,
                    cri::Protocol::Udp => Protocol::Udp,
                    cri::Protocol::Sctp => Protocol::Sctp,
                },
                host_ip: host_ip(&mapping.host_ip)?,
            })
        })
        .collect()
}

fn host_ip(text: &str) -> Result<Option<IpAddr>> {
    if text.is_empty() {
        return Ok(None);
    }
    let address = text
        .parse()
        .map_err(|_| Error::invalid("port_mappings", format!("host_ip {text:?} is not an IP address")))?;
    Ok(Some(address))
}

/// Words of resolv.conf are no more than that: another line would be another setting.
pub(super) fn check_dns(config: &cri::PodSandboxConfig) -> Result<()> {
    let Some(dns) = &config.dns_config else {
        return Ok(());
    };
    for (field, words) in [
        ("servers", &dns.servers),
        ("searches", &dns.searches),
        ("options", &dns.options),
    ] {
        let is_more =
            |word: &String| word.is_empty() || word.contains(|c: char| c.is_whitespace() || c.is_control());
        if let Some(index) = words.iter().position(is_more) {
            let problem = format!("{:?} is not one word", words[index]);
            return Err(Error::invalid(
                format!("config.dns_config.{field}[{index}]"),
                problem,
            ));
        }
    }
    Ok(())
}

/// The address that the pod must have; none where the annotation is absent or means any address.
pub(super) fn fixed_address(config: &cri::PodSandboxConfig) -> Result<Option<IpAddr>> {
    let Some(text) = config
        .annotations
        .get(FIXED_ADDRESS)
        .filter(|text| !text.is_empty())
    else {
        return Ok(None);
    };
    let address: IpAddr = text.parse().map_err(|_| {
        Error::invalid(
            "annotations[clone8s.io/pod-ip]",
            format!("{text:?} is not an IP address"),
        )
    })?;
    Ok((!address.is_unspecified()).then_some(address))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::pins::Wanted;

    #[rstest]
    #[case(None, None)]
    #[case(Some(""), None)]
    #[case(Some("0.0.0.0"), None)]
    #[case(Some("10.88.0.9"), Some("10.88.0.9"))]
    fn fixed_address_is_an_address_or_any(#[case] text: Option<&str>, #[case] expected: Option<&str>) {
        let mut config = cri::PodSandboxConfig::default();
        config
            .annotations
            .extend(text.map(|text| (FIXED_ADDRESS.to_owned(), text.to_owned())));
        let expected = expected.map(|text| text.parse::<IpAddr>().unwrap());
        assert_eq!(fixed_address(&config).unwrap(), expected);
    }

    #[test]
    fn what_is_no_address_is_refused_by_the_annotations_name() {
        let annotations = [(FIXED_ADDRESS.to_owned(), "ten".to_owned())].into();
        let config = cri::PodSandboxConfig {
            annotations,
            ..Default::default()
        };
        let error = fixed_address(&config).unwrap_err().to_string();
        assert!(error.contains("clone8s.io/pod-ip"), "{error}");
    }

    #[test]
    fn a_word_of_dns_that_is_another_line_is_refused_by_its_field() {
        let config = |option: &str| cri::PodSandboxConfig {
            dns_config: Some(cri::DnsConfig {
                options: vec![option.to_owned()],
                ..Default::default()
            }),
            ..Default::default()
        };
        check_dns(&config("ndots:5")).unwrap();
        for bad in ["ndots:5\nnameserver 10.0.0.1", "", "a b"] {
            let error = check_dns(&config(bad)).unwrap_err().to_string();
            assert!(error.contains("dns_config.options"), "{error}");
        }
    }

    #[test]
    fn only_ports_of_the_host_are_mapped() {
        let mapping = |host_port| cri::PortMapping {
            host_port,
            container_port: 80,
            ..Default::default()
        };
        let mut config = cri::PodSandboxConfig {
            port_mappings: vec![mapping(0), mapping(8080)],
            ..Default::default()
        };
        let mapped = port_mappings(&config).unwrap();
        assert_eq!(mapped.len(), 1);
        assert_eq!((mapped[0].host_port, mapped[0].container_port), (8080, 80));
        config.port_mappings.push(mapping(70_000));
        assert!(port_mappings(&config).is_err());
        config.port_mappings = vec![cri::PortMapping {
            host_ip: "localhost".into(),
            ..mapping(8080)
        }];
        let error = port_mappings(&config).unwrap_err().to_string();
        assert!(error.contains("\"localhost\""), "{error}");
    }

    #[rstest]
    #[case("", "/clone8s/s1")]
    #[case("kubepods/pod1", "/kubepods/pod1")]
    #[case("/kubepods/pod1/", "/kubepods/pod1")]
    fn cgroup_parent_is_the_callers_or_the_sandboxs_own(#[case] given: &str, #[case] expected: &str) {
        let config = cri::PodSandboxConfig {
            linux: Some(cri::LinuxPodSandboxConfig {
                cgroup_parent: given.into(),
                ..Default::default()
            }),
            ..Default::default()
        };
        assert_eq!(cgroup_parent(&config, &SandboxId::from("s1")), expected);
    }

    #[rstest]
    #[case::target(cri::NamespaceOption { pid: cri::NamespaceMode::Target.into(), ..Default::default() }, "options.pid")]
    #[case::network(cri::NamespaceOption { network: cri::NamespaceMode::Container.into(), ..Default::default() }, "options.network")]
    #[case::users_on_the_host_network(
        cri::NamespaceOption {
            network: cri::NamespaceMode::Node.into(),
            userns_options: Some(cri::UserNamespace {
                uids: vec![cri::IdMapping { host_id: 1 << 16, container_id: 0, length: 1 << 16 }],
                gids: vec![cri::IdMapping { host_id: 1 << 16, container_id: 0, length: 1 << 16 }],
                ..Default::default()
            }),
            ..Default::default()
        },
        "options.userns_options"
    )]
    fn a_mode_that_a_sandbox_cannot_have_is_refused_by_its_field(
        #[case] options: cri::NamespaceOption,
        #[case] field: &str,
    ) {
        let error = Wanted::from_options(&options).unwrap_err().to_string();
        assert!(error.contains(field), "{error}");
    }
}
