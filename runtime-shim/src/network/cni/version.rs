//! Versions of the CNI specification that configurations and results are written in.

use std::fmt;

use serde::{Deserialize, Serialize};

/// In the order of their making.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(super) enum Version {
    V0_1_0,
    V0_2_0,
    V0_3_0,
    V0_3_1,
    V0_4_0,
    V1_0_0,
    V1_1_0,
}

impl Version {
    pub(super) const ALL: [Self; 7] = [
        Self::V0_1_0,
        Self::V0_2_0,
        Self::V0_3_0,
        Self::V0_3_1,
        Self::V0_4_0,
        Self::V1_0_0,
        Self::V1_1_0,
    ];
    /// Of a configuration that names none.
    pub(super) const UNNAMED: Self = Self::V0_1_0;

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::V0_1_0 => "0.1.0",
            Self::V0_2_0 => "0.2.0",
            Self::V0_3_0 => "0.3.0",
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|version| version.name() == text)
    }

    /// Chains and results with interfaces.
    pub(super) fn has_chains(self) -> bool {
        self >= Self::V0_3_0
    }

    /// CHECK, and DEL with the result of ADD.
    pub(super) fn has_check(self) -> bool {
        self >= Self::V0_4_0
    }

    /// STATUS and GC.
    pub(super) fn has_status(self) -> bool {
        self >= Self::V1_1_0
    }

    /// Each address of a result names its family.
    pub(super) fn names_families(self) -> bool {
        self < Self::V1_0_0
    }
}

impl TryFrom<String> for Version {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text).ok_or_else(|| {
            format!(
                "cniVersion {text:?} is not known; known are {}",
                Self::ALL.map(Self::name).join(", ")
            )
        })
    }
}

impl From<Version> for String {
    fn from(version: Version) -> Self {
        version.name().to_owned()
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
