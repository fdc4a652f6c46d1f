//! What an OCI runtime can do: in its own words (OCI runtime spec 1.1, features.md), or as is known of its version.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::Mutex,
    time::{Duration, SystemTime},
};

use clone8s::cri;
use futures::future::join_all;
use serde::Deserialize;
use tokio::time::Instant;

use crate::{
    error::{Error, Result},
    programs::{self, Programs},
    shim::Shim,
    table::lock,
};

/// When one that has not answered is asked again.
const ASK_AGAIN: Duration = Duration::from_mins(1);

/// As far as the shim asks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Features {
    mount_options: Vec<String>,
    linux: LinuxFeatures,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct LinuxFeatures {
    namespaces: Vec<String>,
}

impl Features {
    /// Of a runtime that has no words for them, by the first line of its `--version`.
    fn of_version(version: &str) -> Self {
        let number = programs::version_number(version).unwrap_or_default();
        let has_rro = match version.split(' ').next() {
            Some("runc") => number >= (1, 1),
            Some("crun") => number >= (1, 4),
            // What it is nobody knows, and so what it can.
            _ => return Self::default(),
        };
        Self {
            mount_options: has_rro.then(|| "rro".to_owned()).into_iter().collect(),
            linux: LinuxFeatures {
                namespaces: vec!["user".to_owned()],
            },
        }
    }

    pub(crate) fn has_recursive_read_only(&self) -> bool {
        self.mount_options.iter().any(|option| option == "rro") && kernel_at_least(5, 12)
    }

    /// The shim maps the owners of files itself, and needs of the runtime that it joins such a namespace.
    fn has_user_namespaces(&self) -> bool {
        let is_user = |namespace: &String| namespace == "user";
        self.linux.namespaces.iter().any(is_user) && kernel_at_least(5, 19)
    }

    pub(crate) fn check_recursive_read_only(&self) -> Result<()> {
        if self.has_recursive_read_only() {
            return Ok(());
        }
        Err(Error::unmet(
            "config.mounts.recursive_read_only",
            "needs Linux 5.12 and an OCI runtime that knows the mount option rro, such as runc 1.1 or crun 1.4",
        ))
    }
}

/// What has been asked for already, until the program changes.
#[derive(Debug, Default)]
pub(crate) struct KnownFeatures {
    by_program: Mutex<BTreeMap<PathBuf, Known>>,
}

#[derive(Debug)]
struct Known {
    changed: SystemTime,
    features: Features,
    /// Only until then, where it has not answered.
    until: Option<Instant>,
}

impl KnownFeatures {
    async fn of(&self, program: &str, programs: &Programs) -> Features {
        let Some((path, changed)) = programs::find(program).and_then(|path| {
            let changed = path.metadata().and_then(|file| file.modified()).ok()?;
            Some((path, changed))
        }) else {
            return Features::default();
        };
        if let Some(known) = lock(&self.by_program).get(&path)
            && known.changed == changed
            && known.until.is_none_or(|until| Instant::now() < until)
        {
            return known.features.clone();
        }
        let told = programs::ask(&path, "features").await;
        let told = told.and_then(|json| serde_json::from_slice(&json).map_err(|error| error.to_string()));
        let (features, until) = match told {
            Ok(features) => (features, None),
            Err(problem) => {
                tracing::debug!(program, problem, "the OCI runtime does not tell its features");
                match programs.version(program).await {
                    Ok(version) => (Features::of_version(&version), None),
                    Err(_) => (Features::default(), Some(Instant::now() + ASK_AGAIN)),
                }
            }
        };
        let known = Known {
            changed,
            features: features.clone(),
            until,
        };
        lock(&self.by_program).insert(path, known);
        features
    }
}

impl Shim {
    /// The features of a handler's OCI runtime. One that is unknown to the shim can do nothing.
    pub(crate) async fn features(&self, handler: &str) -> Features {
        let binary = self
            .handler(handler)
            .ok()
            .and_then(|(_, it)| it.binary.as_deref());
        match binary {
            Some(program) => self.known_features.of(program, &self.programs).await,
            None => Features::default(),
        }
    }

    /// The handlers and what they can do (CRI, StatusResponse.runtime_handlers); with no name, the default one.
    pub(crate) async fn handlers_with_features(&self) -> Vec<cri::RuntimeHandler> {
        let names = std::iter::once("").chain(self.config.handlers.keys().map(String::as_str));
        let all = names.map(async |name| {
            let features = self.features(name).await;
            cri::RuntimeHandler {
                name: name.to_owned(),
                features: Some(cri::RuntimeHandlerFeatures {
                    recursive_read_only_mounts: features.has_recursive_read_only(),
                    user_namespaces: features.has_user_namespaces(),
                }),
            }
        });
        join_all(all).await
    }
}

/// What the runtime as a whole can do (CRI, StatusResponse.features).
pub(crate) fn of_the_shim() -> cri::RuntimeFeatures {
    cri::RuntimeFeatures {
        supplemental_groups_policy: true,
        // Whoever maps users has a network of his own: the host's belongs to the host's users.
        user_namespaces_host_network: false,
        mount_options: false,
    }
}

/// Whether this kernel's version is at least this one.
pub(crate) fn kernel_at_least(major: u32, minor: u32) -> bool {
    let release = rustix::system::uname();
    let release = release.release().to_string_lossy();
    programs::version_number(&release).is_some_and(|version| version >= (major, minor))
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use clone8s_integration::command::write_program;
    use rstest::rstest;

    use super::*;

    #[test]
    fn a_kernels_version_is_its_first_two_numbers() {
        assert!(kernel_at_least(3, 0) && !kernel_at_least(1000, 0));
    }

    #[test]
    fn a_feature_is_what_the_runtime_lists() {
        let features = |text: &str| serde_json::from_str::<Features>(text).unwrap();
        let both = features(
            r#"{"ociVersionMin": "1.0.0", "mountOptions": ["ro", "rro"], "linux": {"namespaces": ["pid", "user"]}}"#,
        );
        assert_eq!(both.has_recursive_read_only(), kernel_at_least(5, 12));
        assert_eq!(both.has_user_namespaces(), kernel_at_least(5, 19));
        let neither = features(r#"{"mountOptions": ["ro"], "linux": {"namespaces": ["pid"]}}"#);
        assert!(!neither.has_recursive_read_only() && !neither.has_user_namespaces());
        let error = features("{}").check_recursive_read_only().unwrap_err();
        assert!(error.to_string().contains("recursive_read_only"));
    }

    #[rstest]
    #[case("runc version 1.1.5+ds1", &["rro"], &["user"])]
    #[case("runc version 1.0.3", &[], &["user"])]
    #[case("crun version 1.8.1", &["rro"], &["user"])]
    #[case("crun version 1.3", &[], &["user"])]
    #[case("youki version 0.3.0", &[], &[])]
    fn what_does_not_tell_is_known_by_its_version(
        #[case] version: &str,
        #[case] options: &[&str],
        #[case] namespaces: &[&str],
    ) {
        let features = Features::of_version(version);
        assert_eq!(features.mount_options, options);
        assert_eq!(features.linux.namespaces, namespaces);
    }

    fn write(path: &Path, script: &str) {
        write_program(path, &format!("#!/bin/sh\n{script}\n")).unwrap();
    }

    #[tokio::test]
    async fn a_runtime_is_asked_once_until_its_program_changes() {
        let dir = tempfile::tempdir().unwrap();
        let (path, asked) = (dir.path().join("oci"), dir.path().join("asked"));
        let says = |text: &str| {
            format!(
                "echo $1 >> {}\n[ $1 = features ] && echo '{text}'",
                asked.display()
            )
        };
        write(&path, &says(r#"{"mountOptions": ["rro"]}"#));
        let (known, programs) = (KnownFeatures::default(), Programs::default());
        let program = path.to_str().unwrap();
        for _ in 0..3 {
            let features = known.of(program, &programs).await;
            assert_eq!(features.mount_options, ["rro"]);
        }
        assert_eq!(fs::read_to_string(&asked).unwrap(), "features\n");
        write(&path, &says(r#"{"mountOptions": []}"#));
        let later = clone8s_daemon::clock::now() + Duration::from_secs(5);
        fs::File::open(&path).unwrap().set_modified(later).unwrap();
        assert_eq!(known.of(program, &programs).await, Features::default());
        assert_eq!(fs::read_to_string(&asked).unwrap(), "features\nfeatures\n");
    }

    #[tokio::test]
    async fn one_without_the_command_is_asked_for_its_version() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("crun");
        write(&path, "[ $1 = --version ] && echo crun version 1.8.1 || exit 1");
        let (known, programs) = (KnownFeatures::default(), Programs::default());
        let features = known.of(path.to_str().unwrap(), &programs).await;
        assert_eq!(features, Features::of_version("crun version 1.8.1"));
        let absent = known.of("/nonexistent/runtime", &programs).await;
        assert_eq!(absent, Features::default());
    }
}
