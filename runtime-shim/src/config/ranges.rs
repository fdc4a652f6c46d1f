//! The address ranges of pods, as people and kubelets write them.

use std::{fmt, str::FromStr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

/// One range of IPv4, one of IPv6, or one of each, each with room for a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PodRanges {
    v4: Option<Ipv4Net>,
    v6: Option<Ipv6Net>,
}

impl PodRanges {
    /// IPv4 first.
    pub fn iter(&self) -> impl Iterator<Item = IpNet> {
        let v4 = self.v4.into_iter().map(IpNet::V4);
        v4.chain(self.v6.into_iter().map(IpNet::V6))
    }
}

/// A range that is known to have room, such as a default.
impl From<Ipv4Net> for PodRanges {
    fn from(range: Ipv4Net) -> Self {
        Self {
            v4: Some(range.trunc()),
            v6: None,
        }
    }
}

/// `10.88.0.0/16`, `fd00:88::/64`, or both with a comma between them.
impl FromStr for PodRanges {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut ranges = Self { v4: None, v6: None };
        for part in text.split(',').map(str::trim) {
            let range: IpNet = part
                .parse()
                .map_err(|_| format!("{part:?} is not a range of addresses, such as 10.88.0.0/16"))?;
            if range.max_prefix_len() - range.prefix_len() < 2 {
                return Err(format!(
                    "{part} has no room for pods; use a prefix of {} bits or fewer",
                    range.max_prefix_len() - 2
                ));
            }
            let doubled = match range {
                IpNet::V4(range) => ranges.v4.replace(range.trunc()).is_some(),
                IpNet::V6(range) => ranges.v6.replace(range.trunc()).is_some(),
            };
            if doubled {
                return Err(format!(
                    "{text:?} has two ranges of one family; give one of IPv4, one of IPv6, or one of each"
                ));
            }
        }
        Ok(ranges)
    }
}

impl TryFrom<String> for PodRanges {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<PodRanges> for String {
    fn from(ranges: PodRanges) -> Self {
        ranges.to_string()
    }
}

impl fmt::Display for PodRanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<_> = self.iter().map(|range| range.to_string()).collect();
        f.write_str(&parts.join(","))
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("10.88.0.0/16", "10.88.0.0/16")]
    #[case("10.88.3.4/16", "10.88.0.0/16")]
    #[case("fd00:88::/64, 10.88.0.0/16", "10.88.0.0/16,fd00:88::/64")]
    #[case("fd00:88::/64", "fd00:88::/64")]
    fn ranges_are_shown_by_their_first_address(#[case] text: &str, #[case] shown: &str) {
        assert_eq!(text.parse::<PodRanges>().unwrap().to_string(), shown);
    }

    #[rstest]
    #[case("", "not a range")]
    #[case("10.88.0.0", "not a range")]
    #[case("10.88.0.0/31", "no room")]
    #[case("fd00::/127", "no room")]
    #[case("10.1.0.0/16,10.2.0.0/16", "two ranges")]
    fn what_is_no_use_for_pods_is_refused(#[case] text: &str, #[case] problem: &str) {
        let error = text.parse::<PodRanges>().unwrap_err();
        assert!(error.contains(problem), "{error}");
    }
}
