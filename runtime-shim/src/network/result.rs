//! What a plugin chain says about the addresses of a sandbox (CNI specification, §5; 0.x and 1.x results).

use std::net::IpAddr;

use serde_json::Value;

/// The addresses of `interface` in the sandbox, in the order of the result.
///
/// From 0.3.0 on, `ips` refer to `interfaces`; an older result has `ip4` and `ip6`.
pub(super) fn addresses(result: &Value, interface: &str) -> Vec<IpAddr> {
    let listed = result["ips"].as_array().map(Vec::as_slice).unwrap_or_default();
    let ours = listed.iter().filter(|ip| match ip["interface"].as_u64() {
        Some(index) => usize::try_from(index).is_ok_and(|index| {
            let found = &result["interfaces"][index];
            found["name"] == interface && found["sandbox"].as_str().is_some_and(|path| !path.is_empty())
        }),
        // Plugins without a link to an interface speak of the one that was asked for.
        None => true,
    });
    let current = ours.map(|ip| &ip["address"]);
    let oldest = [&result["ip4"]["ip"], &result["ip6"]["ip"]];
    current.chain(oldest).filter_map(parse).collect()
}

/// `10.88.0.2/16` or `10.88.0.2`.
fn parse(address: &Value) -> Option<IpAddr> {
    let text = address.as_str()?;
    text.split('/').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

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
    #[case::of_version_0_2(json!({"ip4": {"ip": "10.1.2.3/24"}, "ip6": {"ip": "fd00::3/64"}}), &["10.1.2.3", "fd00::3"])]
    #[case::with_an_interface_that_is_not_there(json!({"ips": [{"interface": 9, "address": "10.0.0.1/8"}]}), &[])]
    #[case::empty(json!({}), &[])]
    fn addresses_of_a_result(#[case] result: Value, #[case] expected: &[&str]) {
        let expected: Vec<IpAddr> = expected.iter().map(|text| text.parse().unwrap()).collect();
        assert_eq!(addresses(&result, "eth0"), expected);
    }
}
