//! Which of an index's images is for this host.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Where an image runs, in the words of image indexes (OCI image spec, image-index.md; Go's names).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Platform {
    #[serde(default)]
    pub(crate) architecture: String,
    #[serde(default)]
    pub(crate) os: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) variant: String,
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if !self.variant.is_empty() {
            write!(f, "/{}", self.variant)?;
        }
        Ok(())
    }
}

/// Above every sibling's rank.
const NATIVE: u32 = 100;

/// What this host can run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Host {
    architecture: &'static str,
    /// The highest variant of the architecture: `v3` of amd64 is 3.
    level: u32,
}

impl Host {
    pub(crate) fn here() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "powerpc64" => "ppc64le",
            other => other,
        };
        Self {
            architecture,
            level: level(),
        }
    }

    /// How well an image suits: the higher the better, none when it cannot run.
    ///
    /// The nearest variant first, then the 32-bit sibling of the architecture.
    pub(crate) fn rank(self, platform: &Platform) -> Option<u32> {
        if platform.os != "linux" {
            return None;
        }
        let variant = |default: u32| match platform.variant.strip_prefix('v') {
            Some(number) => number.parse().ok(),
            None if platform.variant.is_empty() => Some(default),
            None => None,
        };
        match (self.architecture, platform.architecture.as_str()) {
            ("amd64", "amd64") => variant(1).filter(|&v| v <= self.level).map(|v| NATIVE + v),
            ("arm64", "arm64") => variant(8).filter(|&v| v <= self.level).map(|v| NATIVE + v),
            // Kernels of 64 bits run their siblings' programs.
            ("amd64", "386") => Some(1),
            ("arm64", "arm") => variant(7).filter(|&v| v <= 8),
            (host, other) if host == other => Some(NATIVE),
            _ => None,
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "linux/{}", self.architecture)
    }
}

/// The level of x86-64 (psABI, "Micro-Architecture Levels"); 8 elsewhere, arm64's only variant in use.
fn level() -> u32 {
    #[cfg(target_arch = "x86_64")]
    {
        use std::is_x86_feature_detected as has;
        let v2 = has!("sse3") && has!("ssse3") && has!("sse4.1") && has!("sse4.2") && has!("popcnt");
        let v3 = v2 && has!("avx2") && has!("bmi1") && has!("bmi2") && has!("fma") && has!("f16c");
        let v4 = v3
            && has!("avx512f")
            && has!("avx512bw")
            && has!("avx512cd")
            && has!("avx512dq")
            && has!("avx512vl");
        1 + u32::from(v2) + u32::from(v3) + u32::from(v4)
    }
    #[cfg(not(target_arch = "x86_64"))]
    8
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const V3: Host = Host {
        architecture: "amd64",
        level: 3,
    };
    const ARM: Host = Host {
        architecture: "arm64",
        level: 8,
    };

    fn platform(text: &str) -> Platform {
        let mut parts = text.split('/').map(str::to_owned);
        Platform {
            os: parts.next().unwrap(),
            architecture: parts.next().unwrap(),
            variant: parts.next().unwrap_or_default(),
        }
    }

    #[rstest]
    #[case(V3, &["linux/amd64/v3", "linux/amd64/v2", "linux/amd64", "linux/386"])]
    #[case(ARM, &["linux/arm64", "linux/arm/v7", "linux/arm/v6"])]
    fn the_nearest_platform_is_preferred(#[case] host: Host, #[case] best_first: &[&str]) {
        let ranks: Vec<_> = best_first
            .iter()
            .map(|text| host.rank(&platform(text)).unwrap())
            .collect();
        assert!(ranks.windows(2).all(|pair| pair[0] > pair[1]), "{ranks:?}");
    }

    #[rstest]
    #[case(V3, "linux/amd64/v4")]
    #[case(V3, "windows/amd64")]
    #[case(V3, "unknown/unknown")]
    #[case(V3, "linux/arm64")]
    #[case(V3, "linux/amd64/nonsense")]
    #[case(ARM, "linux/amd64")]
    #[case(ARM, "linux/arm64/v9")]
    fn what_does_not_run_here_is_no_choice(#[case] host: Host, #[case] other: &str) {
        assert_eq!(host.rank(&platform(other)), None);
    }

    #[test]
    fn this_host_runs_its_own_architecture() {
        let here = Host::here();
        let own = platform(&here.to_string());
        assert!(here.rank(&own).is_some(), "{here}");
    }
}
