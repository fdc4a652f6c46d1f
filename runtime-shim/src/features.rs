//! What an OCI runtime can do, in its own words (OCI runtime spec 1.1, features.md).

use std::{collections::BTreeMap, process::Stdio, sync::Mutex, time::Duration};

use serde::Deserialize;
use tokio::{process::Command, time::timeout};

use crate::{
    error::{Error, Result},
    shim::Shim,
    table::lock,
};

/// A runtime that takes longer to say what it can is taken to say nothing.
const LIMIT: Duration = Duration::from_secs(5);

/// As far as the shim asks. A runtime that has no such command can do none of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Features {
    mount_options: Vec<String>,
}

impl Features {
    pub(crate) fn has_recursive_read_only(&self) -> bool {
        self.mount_options.iter().any(|option| option == "rro") && kernel_at_least(5, 12)
    }

    pub(crate) fn check_recursive_read_only(&self) -> Result<()> {
        if self.has_recursive_read_only() {
            return Ok(());
        }
        Err(Error::unmet(
            "config.mounts.recursive_read_only",
            "needs Linux 5.12 and an OCI runtime that lists the mount option rro among its features, such as runc 1.1",
        ))
    }
}

/// What has been asked for already, by program.
#[derive(Debug, Default)]
pub(crate) struct KnownFeatures {
    by_program: Mutex<BTreeMap<String, Features>>,
}

impl Shim {
    /// The features of a handler's OCI runtime.
    pub(crate) async fn features(&self, handler: &str) -> Features {
        let name = match handler {
            "" => &self.config.default_handler,
            name => name,
        };
        let program = self
            .config
            .handlers
            .get(name)
            .and_then(|handler| handler.binary.clone());
        let Some(program) = program else {
            return Features::default();
        };
        let known = lock(&self.known_features.by_program).get(&program).cloned();
        if let Some(known) = known {
            return known;
        }
        let features = ask(&program).await;
        lock(&self.known_features.by_program).insert(program, features.clone());
        features
    }
}

async fn ask(program: &str) -> Features {
    let output = Command::new(program)
        .arg("features")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    match timeout(LIMIT, output).await {
        Ok(Ok(output)) => serde_json::from_slice(&output.stdout).unwrap_or_default(),
        Ok(Err(error)) => {
            tracing::debug!(program, %error, "the OCI runtime does not tell its features");
            Features::default()
        }
        Err(_) => Features::default(),
    }
}

/// Whether this kernel's version is at least this one.
pub(crate) fn kernel_at_least(major: u32, minor: u32) -> bool {
    let release = rustix::system::uname();
    version(&release.release().to_string_lossy()).is_some_and(|version| version >= (major, minor))
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernels_version_is_its_first_two_numbers() {
        assert_eq!(version("6.18.44-amd64"), Some((6, 18)));
        assert_eq!(version("5.4-rc1"), Some((5, 4)));
        assert_eq!(version("unknown"), None);
        assert!(kernel_at_least(3, 0) && !kernel_at_least(1000, 0));
    }

    #[test]
    fn a_feature_is_what_the_runtime_lists() {
        let features = |text: &str| serde_json::from_str::<Features>(text).unwrap();
        assert!(
            features(r#"{"ociVersionMin": "1.0.0", "mountOptions": ["ro", "rro"]}"#)
                .has_recursive_read_only()
        );
        assert!(!features(r#"{"mountOptions": ["ro"]}"#).has_recursive_read_only());
        let error = features("{}").check_recursive_read_only().unwrap_err();
        assert!(error.to_string().contains("recursive_read_only"));
    }
}
