//! How fast a pod may receive and send, by the annotations that Kubernetes has for it.

use std::collections::BTreeMap;

use clone8s::quantity::Quantity;

use crate::error::{Error, Result};

const INGRESS: &str = "kubernetes.io/ingress-bandwidth";
const EGRESS: &str = "kubernetes.io/egress-bandwidth";
/// Bits per second that are not a mistake, as Kubernetes sees it: 1k to 1P.
const SENSIBLE: std::ops::RangeInclusive<i64> = 1_000..=1_000_000_000_000_000;

/// Bits per second; none where there is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Bandwidth {
    /// To the pod.
    pub(crate) ingress: Option<u64>,
    /// From the pod.
    pub(crate) egress: Option<u64>,
}

impl Bandwidth {
    pub(crate) fn from_annotations(annotations: &BTreeMap<String, String>) -> Result<Self> {
        Ok(Self {
            ingress: limit(
                annotations,
                INGRESS,
                "annotations[kubernetes.io/ingress-bandwidth]",
            )?,
            egress: limit(annotations, EGRESS, "annotations[kubernetes.io/egress-bandwidth]")?,
        })
    }
}

fn limit(annotations: &BTreeMap<String, String>, key: &str, field: &'static str) -> Result<Option<u64>> {
    let Some(text) = annotations.get(key).filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let bits = text
        .parse::<Quantity>()
        .map_err(|error| Error::invalid(field, error.to_string()))?
        .value();
    if !SENSIBLE.contains(&bits) {
        return Err(Error::invalid(
            field,
            format!("{text:?} is not between 1k and 1P bits per second"),
        ));
    }
    Ok(u64::try_from(bits).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: &str) -> Result<Bandwidth> {
        Bandwidth::from_annotations(&[(INGRESS.to_owned(), value.to_owned())].into())
    }

    #[test]
    fn limits_are_quantities_of_bits() {
        assert_eq!(read("10M").unwrap().ingress, Some(10_000_000));
        assert_eq!(read("").unwrap(), Bandwidth::default());
        assert_eq!(
            read("1Ki").unwrap(),
            Bandwidth {
                ingress: Some(1024),
                egress: None
            }
        );
    }

    #[test]
    fn a_limit_that_makes_no_sense_is_refused_by_the_annotations_name() {
        for text in ["fast", "-1M", "1", "2P"] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(INGRESS), "{text}: {error}");
        }
    }
}
