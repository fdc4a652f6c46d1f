//! Which sandbox has which address. Kept in memory alone: at a start it is read from the sandboxes' records.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;

use super::BridgeError;
use crate::{config::PodRanges, ids::SandboxId};

/// The addresses of the ranges in force, and those that are given away.
#[derive(Debug)]
pub(super) struct Addresses {
    ranges: PodRanges,
    taken: HashMap<IpAddr, SandboxId>,
    /// The last one given from each range. The next search begins behind it, so that an address rests before it is
    /// given again.
    last: HashMap<IpNet, u128>,
}

impl Addresses {
    pub(super) fn new(ranges: PodRanges) -> Self {
        Self {
            ranges,
            taken: HashMap::new(),
            last: HashMap::new(),
        }
    }

    pub(super) fn ranges(&self) -> &PodRanges {
        &self.ranges
    }

    /// From now on; what is given away stays so.
    pub(super) fn set_ranges(&mut self, ranges: PodRanges) {
        self.ranges = ranges;
    }

    /// One of each range; `fixed` is the one of its range.
    pub(super) fn allocate(
        &mut self,
        sandbox: &SandboxId,
        fixed: Option<IpAddr>,
    ) -> Result<Vec<IpNet>, BridgeError> {
        if let Some(address) = fixed {
            self.check_fixed(address)?;
        }
        let mut given = Vec::new();
        for range in self.ranges.iter() {
            let address = match fixed.filter(|address| range.contains(address)) {
                Some(address) => address,
                None => self.free(range)?,
            };
            given.push((range, address));
        }
        // Nothing is taken before everything is found.
        for &(range, address) in &given {
            self.taken.insert(address, sandbox.clone());
            if Some(address) != fixed {
                self.last.insert(range, number(address));
            }
        }
        Ok(given
            .into_iter()
            .map(|(range, address)| within(range, address))
            .collect())
    }

    fn check_fixed(&self, address: IpAddr) -> Result<(), BridgeError> {
        let usable = |range: IpNet| {
            let (first, last) = usable(range);
            (first..=last).contains(&number(address)) && range.contains(&address)
        };
        if !self.ranges.iter().any(usable) {
            return Err(BridgeError::OutsideRange {
                address,
                ranges: self.ranges.to_string(),
            });
        }
        match self.taken.get(&address) {
            Some(by) => Err(BridgeError::AddressTaken {
                address,
                by: by.clone(),
            }),
            None => Ok(()),
        }
    }

    fn free(&self, range: IpNet) -> Result<IpAddr, BridgeError> {
        let (first, last) = usable(range);
        let start = match self.last.get(&range) {
            Some(&given) if (first..last).contains(&given) => given + 1,
            _ => first,
        };
        (start..=last)
            .chain(first..start)
            // Among one more than are taken one is free.
            .take(self.taken.len() + 1)
            .map(|number| address(range, number))
            .find(|address| !self.taken.contains_key(address))
            .ok_or(BridgeError::Exhausted { range })
    }

    /// As a record says.
    pub(super) fn restore(&mut self, sandbox: &SandboxId, addresses: &[IpAddr]) {
        for &address in addresses {
            self.taken.insert(address, sandbox.clone());
            if let Some(range) = self.ranges.iter().find(|range| range.contains(&address)) {
                self.last.insert(range, number(address));
            }
        }
    }

    pub(super) fn release(&mut self, sandbox: &SandboxId) {
        self.taken.retain(|_, by| by != sandbox);
    }
}

/// The bridge's address in a range: its first.
pub(super) fn gateway(range: IpNet) -> IpNet {
    within(range, address(range, number(range.network()) + 1))
}

fn within(range: IpNet, address: IpAddr) -> IpNet {
    // The prefix is one of the family already.
    IpNet::new(address, range.prefix_len()).unwrap_or(range)
}

/// The first and the last that a pod can have: not the range's own, the bridge's or the broadcast address.
fn usable(range: IpNet) -> (u128, u128) {
    let last = number(range.broadcast());
    (
        number(range.network()) + 2,
        if range.addr().is_ipv4() { last - 1 } else { last },
    )
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

fn address(range: IpNet, number: u128) -> IpAddr {
    match range {
        // Between two addresses of the range, thus of 32 bits.
        IpNet::V4(_) => Ipv4Addr::from(u32::try_from(number).unwrap_or(u32::MAX)).into(),
        IpNet::V6(_) => Ipv6Addr::from(number).into(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn addresses(ranges: &str) -> Addresses {
        Addresses::new(ranges.parse().unwrap())
    }

    fn one(addresses: &mut Addresses, id: &str) -> Result<String, String> {
        addresses
            .allocate(&SandboxId::from(id), None)
            .map(|given| given[0].addr().to_string())
            .map_err(|error| error.to_string())
    }

    fn fixed(addresses: &mut Addresses, id: &str, address: &str) -> Result<String, String> {
        addresses
            .allocate(&SandboxId::from(id), Some(address.parse().unwrap()))
            .map(|given| given[0].addr().to_string())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn a_small_range_is_given_out_to_its_last_address_and_says_when_it_is_full() {
        let mut all = addresses("10.1.0.0/29");
        let given: Vec<_> = ["a", "b", "c", "d", "e"]
            .map(|id| one(&mut all, id).unwrap())
            .into();
        assert_eq!(
            given,
            ["10.1.0.2", "10.1.0.3", "10.1.0.4", "10.1.0.5", "10.1.0.6"]
        );
        let full = one(&mut all, "f").unwrap_err();
        assert!(full.contains("10.1.0.0/29"), "{full}");
        all.release(&SandboxId::from("b"));
        assert_eq!(one(&mut all, "f").unwrap(), "10.1.0.3");
    }

    #[test]
    fn an_address_rests_before_it_is_given_again() {
        let mut all = addresses("10.1.0.0/24");
        assert_eq!(one(&mut all, "a").unwrap(), "10.1.0.2");
        all.release(&SandboxId::from("a"));
        assert_eq!(one(&mut all, "b").unwrap(), "10.1.0.3");
    }

    #[test]
    fn a_fixed_address_is_given_once_and_only_from_the_range() {
        let mut all = addresses("10.1.0.0/24");
        assert_eq!(fixed(&mut all, "a", "10.1.0.9").unwrap(), "10.1.0.9");
        let taken = fixed(&mut all, "b", "10.1.0.9").unwrap_err();
        assert!(
            taken.contains("10.1.0.9") && taken.contains("sandbox a"),
            "{taken}"
        );
        for outside in ["10.1.0.0", "10.1.0.1", "10.1.0.255", "10.1.1.2", "fd00::2"] {
            let error = fixed(&mut all, "b", outside).unwrap_err();
            assert!(
                error.contains(outside) && error.contains("10.1.0.0/24"),
                "{error}"
            );
        }
        assert_eq!(one(&mut all, "c").unwrap(), "10.1.0.2");
    }

    #[test]
    fn a_pod_gets_an_address_of_each_family() {
        let mut all = addresses("10.1.0.0/24,fd00:1::/64");
        let given = all
            .allocate(&SandboxId::from("a"), Some("fd00:1::7".parse().unwrap()))
            .unwrap();
        let given: Vec<_> = given.iter().map(ToString::to_string).collect();
        assert_eq!(given, ["10.1.0.2/24", "fd00:1::7/64"]);
        assert_eq!(
            gateway("fd00:1::/64".parse().unwrap()).to_string(),
            "fd00:1::1/64"
        );
    }

    #[test]
    fn what_records_hold_is_not_given_again() {
        let mut all = addresses("10.1.0.0/29");
        all.restore(&SandboxId::from("a"), &["10.1.0.2".parse().unwrap()]);
        all.restore(&SandboxId::from("b"), &["10.1.0.3".parse().unwrap()]);
        assert_eq!(one(&mut all, "c").unwrap(), "10.1.0.4");
    }

    #[test]
    fn new_ranges_are_for_new_pods() {
        let mut all = addresses("10.1.0.0/24");
        one(&mut all, "a").unwrap();
        all.set_ranges("10.2.0.0/24".parse().unwrap());
        assert_eq!(one(&mut all, "b").unwrap(), "10.2.0.2");
        all.set_ranges("10.1.0.0/24".parse().unwrap());
        assert_eq!(one(&mut all, "c").unwrap(), "10.1.0.3");
    }

    proptest! {
        #[test]
        fn no_two_sandboxes_have_an_address_whatever_comes_and_goes(
            steps in prop::collection::vec((0u8..2, 0u8..20), 1..200)
        ) {
            let mut all = addresses("10.1.0.0/28,fd00:1::/124");
            let mut held: HashMap<u8, Vec<IpNet>> = HashMap::new();
            for (step, id) in steps {
                let sandbox = SandboxId::from(id.to_string());
                if step == 0 && !held.contains_key(&id) {
                    if let Ok(given) = all.allocate(&sandbox, None) {
                        held.insert(id, given);
                    } else {
                        // 13 of the 16 of IPv4 are pods'.
                        prop_assert_eq!(held.len(), 13);
                    }
                } else if step == 1 {
                    all.release(&sandbox);
                    held.remove(&id);
                }
                let different: HashSet<_> = held.values().flatten().collect();
                prop_assert_eq!(different.len(), held.len() * 2);
            }
        }
    }
}
