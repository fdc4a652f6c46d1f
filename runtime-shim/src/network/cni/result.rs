//! What plugins say about the network of a sandbox (CNI specification 1.1, §5), in the form of any of its versions.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Map, Value, json};

use super::Version;

/// A pod has one or two.
const MOST_ADDRESSES: usize = 64;

/// A result, whatever version it came in.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct CniResult {
    /// As it came, but for its version and addresses: a plugin's own fields are passed on.
    fields: Map<String, Value>,
    addresses: Vec<Address>,
}

#[derive(Debug, Clone, PartialEq)]
struct Address {
    ip: IpAddr,
    /// As it came, but for its family.
    fields: Map<String, Value>,
    /// Of the result's interfaces.
    interface: Option<usize>,
}

impl CniResult {
    /// `asked` is the version that the plugin was to answer in. What it cannot be is told.
    pub(super) fn read(output: &Value, asked: Version) -> Result<Self, String> {
        let Value::Object(fields) = output else {
            return Err(if output.is_null() {
                "nothing".into()
            } else {
                "not a JSON object".into()
            });
        };
        let mut fields = fields.clone();
        let version = match fields.remove("cniVersion") {
            None => asked,
            Some(Value::String(text)) if text.is_empty() => asked,
            Some(Value::String(text)) => Version::try_from(text)?,
            Some(_) => return Err("its cniVersion is not a text".into()),
        };
        let ips = fields.remove("ips");
        let addresses = if version.has_chains() {
            current_addresses(ips)?
        } else {
            oldest_addresses(&mut fields)?
        };
        if addresses.len() > MOST_ADDRESSES {
            return Err(format!(
                "{} addresses, more than {MOST_ADDRESSES}",
                addresses.len()
            ));
        }
        Ok(Self { fields, addresses })
    }

    /// In the form of a version.
    pub(super) fn write(&self, version: Version) -> Value {
        let mut fields = self.fields.clone();
        fields.insert("cniVersion".into(), version.name().into());
        if version.has_chains() {
            let ips = self.addresses.iter().map(|address| address.write(version));
            fields.insert("ips".into(), ips.collect());
        } else {
            for (key, v4) in [("ip4", true), ("ip6", false)] {
                let first = self.addresses.iter().find(|address| address.ip.is_ipv4() == v4);
                if let Some(first) = first {
                    fields.insert(key.into(), first.write_oldest());
                }
            }
        }
        fields.into()
    }

    /// Those of `interface` in the sandbox, in the order of the result.
    pub(super) fn addresses(&self, interface: &str) -> Vec<IpAddr> {
        let interfaces = self
            .fields
            .get("interfaces")
            .and_then(Value::as_array)
            .map(Vec::as_slice)
            .unwrap_or_default();
        let is_ours = |address: &&Address| match address.interface {
            Some(index) => interfaces.get(index).is_some_and(|found| {
                found["name"] == interface && found["sandbox"].as_str().is_some_and(|path| !path.is_empty())
            }),
            // Plugins without a link to an interface speak of the one that was asked for.
            None => true,
        };
        let mut ours: Vec<IpAddr> = Vec::new();
        for address in self.addresses.iter().filter(is_ours).map(|found| found.ip) {
            if !ours.contains(&address) {
                ours.push(address);
            }
        }
        ours
    }
}

impl Address {
    fn write(&self, version: Version) -> Value {
        let mut fields = self.fields.clone();
        if version.names_families() {
            let family = if self.ip.is_ipv4() { "4" } else { "6" };
            fields.insert("version".into(), family.into());
        }
        fields.into()
    }

    fn write_oldest(&self) -> Value {
        let mut fields = self.fields.clone();
        fields.remove("interface");
        if let Some(address) = fields.remove("address") {
            fields.insert("ip".into(), address);
        }
        fields.into()
    }
}

/// From 0.3.0 on: a list, whose entries refer to interfaces.
fn current_addresses(ips: Option<Value>) -> Result<Vec<Address>, String> {
    let ips = match ips {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(ips)) => ips,
        Some(_) => return Err("its \"ips\" are not a list".into()),
    };
    let read = |ip: Value| {
        let Value::Object(mut fields) = ip else {
            return Err("one of its \"ips\" is not a JSON object".to_owned());
        };
        fields.remove("version");
        let interface = match fields.get("interface") {
            None | Some(Value::Null) => None,
            Some(index) => Some(
                index
                    .as_u64()
                    .and_then(|index| usize::try_from(index).ok())
                    .ok_or_else(|| format!("interface {index} is not an index"))?,
            ),
        };
        Ok(Address {
            ip: parse(fields.get("address"))?,
            fields,
            interface,
        })
    };
    ips.into_iter().map(read).collect()
}

/// Before: one of each family.
fn oldest_addresses(fields: &mut Map<String, Value>) -> Result<Vec<Address>, String> {
    let mut addresses = Vec::new();
    for key in ["ip4", "ip6"] {
        let Some(Value::Object(mut found)) = fields.remove(key) else {
            continue;
        };
        let ip = parse(found.get("ip"))?;
        // They say something only in a later version, where they would be read.
        for later in ["address", "interface", "version"] {
            found.remove(later);
        }
        if let Some(text) = found.remove("ip") {
            found.insert("address".into(), text);
        }
        if let Some(Value::Array(routes)) = found.remove("routes") {
            let all = fields.entry("routes").or_insert_with(|| json!([]));
            if let Value::Array(all) = all {
                all.extend(routes);
            }
        }
        addresses.push(Address {
            ip,
            fields: found,
            interface: None,
        });
    }
    Ok(addresses)
}

/// `10.88.0.2/16` or `10.88.0.2`.
fn parse(address: Option<&Value>) -> Result<IpAddr, String> {
    let text = address
        .and_then(Value::as_str)
        .ok_or("one of its addresses is not a text")?;
    let parsed = text
        .parse::<IpNet>()
        .map(|net| net.addr())
        .or_else(|_| text.parse::<IpAddr>());
    match parsed {
        Ok(address) if address.is_unspecified() || address.is_multicast() || address.is_loopback() => {
            Err(format!("{address} is not an address that a pod can have"))
        }
        Ok(address) => Ok(address),
        Err(_) => {
            let start: String = text.chars().take(50).collect();
            Err(format!("{start:?} is not an address"))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    fn addresses(result: &Value) -> Vec<String> {
        let read = CniResult::read(result, Version::V1_0_0).unwrap();
        read.addresses("eth0").iter().map(ToString::to_string).collect()
    }

    #[rstest]
    #[case::of_the_sandbox_and_not_of_the_bridge(
        json!({
            "cniVersion": "1.0.0",
            "interfaces": [{"name": "c8s0"}, {"name": "veth1"}, {"name": "eth0", "sandbox": "/run/ns"}],
            "ips": [
                {"interface": 0, "address": "10.88.0.1/16"},
                {"interface": 2, "address": "10.88.0.2/16"},
                {"interface": 2, "address": "fd00::2/64"},
            ],
        }),
        &["10.88.0.2", "fd00::2"]
    )]
    #[case::without_interfaces(json!({"ips": [{"address": "192.168.1.7/24"}]}), &["192.168.1.7"])]
    #[case::of_version_0_4(
        json!({"cniVersion": "0.4.0", "ips": [{"version": "4", "address": "192.168.1.7/24"}]}),
        &["192.168.1.7"]
    )]
    #[case::of_version_0_2(
        json!({"cniVersion": "0.2.0", "ip4": {"ip": "10.1.2.3/24"}, "ip6": {"ip": "fd00::3/64"}}),
        &["10.1.2.3", "fd00::3"]
    )]
    #[case::with_an_interface_that_is_not_there(json!({"ips": [{"interface": 9, "address": "10.0.0.1/8"}]}), &[])]
    #[case::twice(json!({"ips": [{"address": "10.0.0.1/8"}, {"address": "10.0.0.1/8"}]}), &["10.0.0.1"])]
    #[case::null(json!({"ips": null}), &[])]
    #[case::empty(json!({}), &[])]
    fn addresses_of_a_result(#[case] result: Value, #[case] expected: &[&str]) {
        assert_eq!(addresses(&result), expected);
    }

    #[rstest]
    #[case(json!(null), "nothing")]
    #[case(json!([]), "not a JSON object")]
    #[case(json!({"cniVersion": "7.0.0"}), "\"7.0.0\" is not known")]
    #[case(json!({"cniVersion": 1}), "not a text")]
    #[case(json!({"ips": "10.0.0.1"}), "not a list")]
    #[case(json!({"ips": [1]}), "not a JSON object")]
    #[case(json!({"ips": [{"address": "10.0.0.1/99"}]}), "\"10.0.0.1/99\" is not an address")]
    #[case(json!({"ips": [{"address": 7}]}), "not a text")]
    #[case(json!({"ips": [{"address": "0.0.0.0/0"}]}), "0.0.0.0 is not an address that a pod can have")]
    #[case(json!({"ips": [{"address": "10.0.0.1/8", "interface": -1}]}), "-1 is not an index")]
    #[case(json!({"ips": vec![json!({"address": "10.0.0.1/8"}); 65]}), "65 addresses")]
    fn what_is_no_result_is_told(#[case] output: Value, #[case] problem: &str) {
        let error = CniResult::read(&output, Version::V1_0_0).unwrap_err();
        assert!(error.contains(problem), "{error}");
    }

    #[test]
    fn a_result_of_one_version_is_written_in_the_configurations() {
        let old = json!({
            "cniVersion": "0.3.1",
            "interfaces": [{"name": "eth0", "sandbox": "/run/ns"}],
            "ips": [{"version": "4", "address": "10.0.0.2/24", "gateway": "10.0.0.1", "interface": 0}],
            "routes": [{"dst": "0.0.0.0/0"}],
            "theirs": {"kept": true},
        });
        let mut new = old.clone();
        new["cniVersion"] = "1.1.0".into();
        new["ips"][0].as_object_mut().unwrap().remove("version");
        let read = |value: &Value| CniResult::read(value, Version::V0_1_0).unwrap();
        assert_eq!(read(&old).write(Version::V1_1_0), new);
        assert_eq!(read(&new).write(Version::V0_3_1), old);
        let oldest = json!({
            "cniVersion": "0.2.0",
            "ip4": {"ip": "10.0.0.2/24", "gateway": "10.0.0.1", "routes": [{"dst": "0.0.0.0/0"}]},
        });
        assert_eq!(
            read(&oldest).write(Version::V1_0_0),
            json!({
                "cniVersion": "1.0.0",
                "ips": [{"address": "10.0.0.2/24", "gateway": "10.0.0.1"}],
                "routes": [{"dst": "0.0.0.0/0"}],
            })
        );
    }

    /// JSON of any shape, with the names that a result has.
    fn anything() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            ".{0,20}".prop_map(Value::from),
            prop::sample::select(vec!["0.2.0", "0.3.1", "1.1.0", "10.0.0.1/8", "::/0", "eth0", "4"])
                .prop_map(Value::from),
        ];
        let name = prop::sample::select(vec![
            "cniVersion",
            "ips",
            "ip4",
            "ip6",
            "ip",
            "address",
            "interface",
            "interfaces",
            "name",
            "sandbox",
            "routes",
            "dns",
            "gateway",
            "version",
        ]);
        leaf.prop_recursive(5, 64, 8, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::vec((name.clone(), inner), 0..8).prop_map(|fields| {
                    Value::Object(
                        fields
                            .into_iter()
                            .map(|(key, value)| (key.to_owned(), value))
                            .collect(),
                    )
                }),
            ]
        })
    }

    #[test]
    fn what_only_later_versions_know_is_not_carried_into_them() {
        let old = json!({
            "cniVersion": "0.2.0",
            "ip4": {"ip": "10.1.2.3/24", "version": null, "interface": "eth0", "gateway": "10.1.2.1"},
        });
        let read = CniResult::read(&old, Version::V0_2_0).unwrap();
        let written = read.write(Version::V0_4_0);
        assert_eq!(
            written["ips"],
            json!([{"version": "4", "address": "10.1.2.3/24", "gateway": "10.1.2.1"}])
        );
        assert_eq!(CniResult::read(&written, Version::V0_4_0), Ok(read));
    }

    proptest! {
        #[test]
        fn whatever_a_plugin_says_is_a_result_or_an_error(value in anything()) {
            for asked in Version::ALL {
                if let Ok(read) = CniResult::read(&value, asked) {
                    prop_assert!(read.addresses("eth0").len() <= MOST_ADDRESSES);
                    for version in Version::ALL.into_iter().filter(|version| version.has_chains()) {
                        let again = CniResult::read(&read.write(version), asked);
                        prop_assert_eq!(again.as_ref(), Ok(&read));
                    }
                }
            }
        }
    }
}
