//! What of the node is not for pods.

use std::str::FromStr;

use clone8s::quantity;

/// Kept for the system and for Clone8s itself, as `cpu=100m,memory=200Mi,ephemeral-storage=1Gi`: the form of Kubernetes'
/// `--system-reserved`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reserved {
    /// Thousandths of a core.
    pub milli_cpu: u64,
    /// Bytes.
    pub memory: u64,
    /// Bytes of the disk that pods' volumes are on.
    pub storage: u64,
}

impl FromStr for Reserved {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut reserved = Self::default();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let (name, amount) = part
                .split_once('=')
                .ok_or_else(|| format!("{part:?}: write NAME=QUANTITY, such as memory=200Mi"))?;
            let (of, amount) = match name {
                "cpu" => (&mut reserved.milli_cpu, quantity::milli_cpu(amount)),
                "memory" => (&mut reserved.memory, quantity::bytes(amount)),
                "ephemeral-storage" => (&mut reserved.storage, quantity::bytes(amount)),
                _ => return Err(format!("{name:?} is neither cpu, memory nor ephemeral-storage")),
            };
            let amount = amount.map_err(|error| error.to_string())?;
            *of = u64::try_from(amount).map_err(|_| format!("{part:?} must not be negative"))?;
        }
        Ok(reserved)
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[test]
    fn a_reservation_is_read_as_kubernetes_writes_it() {
        let reserved = "cpu=0.5,memory=1Mi".parse();
        let expected = Reserved {
            milli_cpu: 500,
            memory: 1 << 20,
            storage: 0,
        };
        assert_eq!(reserved, Ok(expected));
        assert_eq!("".parse(), Ok(Reserved::default()));
    }

    #[rstest]
    #[case("memory", "NAME=QUANTITY")]
    #[case("disk=1Gi", "neither cpu, memory nor")]
    #[case("memory=x", "is not a quantity")]
    #[case("cpu=-1", "must not be negative")]
    fn what_is_no_reservation_says_why(#[case] text: &str, #[case] why: &str) {
        let error = text.parse::<Reserved>().unwrap_err();
        assert!(error.contains(why), "{error}");
    }
}
