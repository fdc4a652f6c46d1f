//! What a pull may show to its registry: the credentials of the secrets that a pod names in `imagePullSecrets`.
//!
//! A secret of the type `kubernetes.io/dockerconfigjson` holds `{"auths": {PLACE: {…}}}` under `.dockerconfigjson`; one of
//! the type `kubernetes.io/dockercfg` the entries alone under `.dockercfg`. A place is a registry's host, with its port
//! where it has one, whose parts may be `*`; and perhaps the beginning of a repository's path, in whole parts.

use std::collections::BTreeMap;

use clone8s::{
    cri::{AuthConfig, PodSandboxConfig},
    rules::ImageReference,
};
use serde::Deserialize;

use crate::{
    desired::DesiredPod,
    objects::{Missing, ObjectKind, ObjectRef, Objects},
    runtime::{ImageRef, Runtime, RuntimeError, RuntimeErrorReason},
};

const CONFIG_JSON: &str = ".dockerconfigjson";
const CONFIG: &str = ".dockercfg";
/// What an image without a registry comes from, under each of its names.
const DEFAULT_REGISTRY: &str = "docker.io";
const DEFAULT_REGISTRY_NAMES: [&str; 3] = ["docker.io", "index.docker.io", "registry-1.docker.io"];

/// Credentials, and the secret that they are from.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Login {
    pub(crate) secret: String,
    pub(crate) auth: AuthConfig,
}

/// What a pod has to show for one image.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Logins {
    /// The host that they are for.
    pub(crate) registry: String,
    /// In the order in which they are tried: the longest place first, then as the pod names the secrets.
    pub(crate) tried: Vec<Login>,
    /// What is wrong with secrets that the pod names. Nothing of what they hold.
    pub(crate) problems: Vec<String>,
    /// Nobody has said yet what some of them are.
    pub(crate) is_partial: bool,
}

#[derive(Deserialize)]
struct ConfigFile {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Entry {
    username: String,
    password: String,
    auth: String,
    identitytoken: String,
    registrytoken: String,
}

impl Logins {
    pub(crate) fn of(pod: &DesiredPod, image: &str, objects: &Objects) -> Self {
        let Ok(reference) = ImageReference::parse(image) else {
            // The runtime says what is wrong with it.
            return Self::default();
        };
        let (registry, path) = reference.registry_and_path();
        let registry = registry.unwrap_or(DEFAULT_REGISTRY);
        let mut logins = Self {
            registry: registry.to_owned(),
            ..Self::default()
        };
        let mut found = Vec::new();
        for named in &pod.spec().image_pull_secrets {
            let object = ObjectRef {
                kind: ObjectKind::Secret,
                namespace: pod.key().namespace,
                name: named.name.clone(),
            };
            let data = match objects.get(pod.source, &object) {
                Ok(data) => data,
                Err(missing) => {
                    logins.is_partial |= matches!(missing, Missing::Unknown(..));
                    logins.problems.push(missing.to_string());
                    continue;
                }
            };
            let entries = match (data.get(CONFIG_JSON), data.get(CONFIG)) {
                (Some(bytes), _) => read::<ConfigFile>(bytes).map(|file| file.auths),
                (None, Some(bytes)) => read(bytes),
                (None, None) => Err(format!("has neither {CONFIG_JSON} nor {CONFIG}")),
            };
            let entries = match entries {
                Ok(entries) => entries,
                Err(problem) => {
                    logins.problems.push(format!("{object} {problem}"));
                    continue;
                }
            };
            for (place, entry) in entries {
                if let Some(length) = fit(&place, registry, path) {
                    let login = Login {
                        secret: named.name.clone(),
                        auth: entry.for_registry(registry),
                    };
                    found.push((length, login));
                }
            }
        }
        // Stable: those of one length stay in the pod's order.
        found.sort_by_key(|(length, _)| std::cmp::Reverse(*length));
        logins.tried = found.into_iter().map(|(_, login)| login).collect();
        logins
    }

    /// Pulls with each of the credentials in turn until one does; as anybody where there are none.
    pub(crate) async fn pull(
        &self,
        runtime: &dyn Runtime,
        image: &str,
        sandbox: &PodSandboxConfig,
    ) -> Result<ImageRef, RuntimeError> {
        let Some((last, first)) = self.tried.split_last() else {
            let pulled = runtime.pull_image(image, sandbox.clone(), None).await;
            return pulled.map_err(|error| self.explain(&error, &[]));
        };
        let mut failures = Vec::new();
        for login in first {
            let credentials = Some(login.auth.clone());
            match runtime.pull_image(image, sandbox.clone(), credentials).await {
                Err(error) if is_the_registrys(&error) => failures.push(self.failure(login, &error)),
                outcome => return outcome,
            }
        }
        let credentials = Some(last.auth.clone());
        let pulled = runtime.pull_image(image, sandbox.clone(), credentials).await;
        pulled.map_err(|error| {
            failures.push(self.failure(last, &error));
            self.explain(&error, &failures)
        })
    }

    fn failure(&self, login: &Login, error: &RuntimeError) -> String {
        format!(
            "registry {} with the credentials of secret {}: {}",
            self.registry, login.secret, error.message
        )
    }

    /// The same error, in these words and with what is wrong with the pod's secrets.
    fn explain(&self, error: &RuntimeError, failures: &[String]) -> RuntimeError {
        let mut message = if failures.is_empty() {
            error.message.clone()
        } else {
            failures.join("; ")
        };
        if !self.problems.is_empty() {
            message = format!("{message} (imagePullSecrets: {})", self.problems.join("; "));
        }
        RuntimeError { message, ..*error }
    }
}

/// Whether other credentials may do better.
fn is_the_registrys(error: &RuntimeError) -> bool {
    matches!(
        error.reason,
        RuntimeErrorReason::Failed | RuntimeErrorReason::NotFound
    )
}

impl Entry {
    /// For that host alone: a mirror that stands in for it is shown nothing.
    fn for_registry(self, registry: &str) -> AuthConfig {
        let server_address = if registry == DEFAULT_REGISTRY {
            "https://registry-1.docker.io".to_owned()
        } else {
            format!("https://{registry}")
        };
        AuthConfig {
            username: self.username,
            password: self.password,
            auth: self.auth,
            server_address,
            identity_token: self.identitytoken,
            registry_token: self.registrytoken,
        }
    }
}

/// Without the parser's own words, which may repeat what stands there.
fn read<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, String> {
    serde_json::from_slice(bytes).map_err(|error| {
        format!(
            "does not hold credentials in Docker's form (line {}, column {})",
            error.line(),
            error.column()
        )
    })
}

/// How much of the image's place the entry's place names, if it fits.
fn fit(place: &str, registry: &str, path: &str) -> Option<usize> {
    let bare = ["https://", "http://"]
        .iter()
        .find_map(|scheme| place.strip_prefix(scheme))
        .unwrap_or(place)
        .trim_end_matches('/');
    let bare = ["/v1", "/v2"]
        .iter()
        .find_map(|version| bare.strip_suffix(version))
        .unwrap_or(bare);
    let (host, prefix) = bare.split_once('/').unwrap_or((bare, ""));
    let is_same_part = |(asked, own): (&str, &str)| asked == "*" || asked == own;
    let is_host = if DEFAULT_REGISTRY_NAMES.contains(&host) {
        registry == DEFAULT_REGISTRY
    } else {
        let (asked, own) = (host.split('.'), registry.split('.'));
        asked.clone().count() == own.clone().count() && asked.zip(own).all(is_same_part)
    };
    let rest = path.strip_prefix(prefix)?;
    let is_path = prefix.is_empty() || rest.is_empty() || rest.starts_with('/');
    (is_host && is_path).then_some(bare.len())
}

#[cfg(test)]
mod tests {
    use clone8s::v1::SecretReference;
    use rstest::rstest;

    use super::*;
    use crate::{
        desired::Source,
        pod::testing::{container, pod},
    };

    #[rstest]
    #[case("registry.example", true)]
    #[case("https://registry.example/v2/", true)]
    #[case("registry.example/team", true)]
    #[case("registry.example/team/app", true)]
    #[case("*.example", true)]
    #[case("registry.example/tea", false)]
    #[case("registry.example/other", false)]
    #[case("registry.example:5000", false)]
    #[case("example", false)]
    #[case("*", false)]
    #[case("docker.io", false)]
    fn a_place_is_a_host_and_perhaps_the_beginning_of_a_path(#[case] place: &str, #[case] fits: bool) {
        assert_eq!(fit(place, "registry.example", "team/app").is_some(), fits);
    }

    fn wanting(secrets: &[&str]) -> DesiredPod {
        let mut wanted = pod("p", vec![container("c", "registry.example/team/app:1")]);
        let spec = std::sync::Arc::make_mut(&mut wanted.pod);
        spec.spec.as_mut().unwrap().image_pull_secrets = secrets
            .iter()
            .map(|name| SecretReference {
                name: (*name).to_owned(),
            })
            .collect();
        wanted
    }

    fn users(logins: &Logins) -> Vec<&str> {
        logins
            .tried
            .iter()
            .map(|login| login.auth.username.as_str())
            .collect()
    }

    #[test]
    fn the_longest_place_comes_first_and_then_the_pods_order() {
        let wide =
            r#"{"auths": {"registry.example": {"username": "wide"}, "other.example": {"username": "no"}}}"#;
        let narrow = r#"{"registry.example/team": {"username": "narrow"}}"#;
        let objects = Objects::of_api([
            (ObjectKind::Secret, "wide", &[(CONFIG_JSON, wide)][..]),
            (ObjectKind::Secret, "narrow", &[(CONFIG, narrow)][..]),
        ]);
        let wanted = wanting(&["wide", "narrow"]);
        let logins = Logins::of(&wanted, "registry.example/team/app:1", &objects);
        assert_eq!(users(&logins), ["narrow", "wide"]);
        assert_eq!(logins.tried[0].auth.server_address, "https://registry.example");
        assert_eq!(logins.problems, [""; 0]);
        assert_eq!(
            users(&Logins::of(&wanted, "registry.example/app", &objects)),
            ["wide"]
        );
        assert_eq!(users(&Logins::of(&wanted, "busybox", &objects)), [""; 0]);
    }

    #[test]
    fn what_is_wrong_with_a_secret_is_told_without_what_it_holds() {
        let objects = Objects::of_api([
            (
                ObjectKind::Secret,
                "broken",
                &[(CONFIG_JSON, "{\"auths\": hunter2}")][..],
            ),
            (ObjectKind::Secret, "empty", &[("key", "hunter2")][..]),
        ]);
        let wanted = wanting(&["broken", "empty", "absent"]);
        assert_eq!(wanted.source, Source::Api);
        let problems = Logins::of(&wanted, "registry.example/app:1", &objects).problems;
        assert_eq!(problems.len(), 3, "{problems:?}");
        for (problem, name) in problems.iter().zip(["broken", "empty", "absent"]) {
            assert!(
                problem.contains(name) && !problem.contains("hunter2"),
                "{problem}"
            );
        }
    }
}
