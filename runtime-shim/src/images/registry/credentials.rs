//! Who asks: credentials of a CRI call (CRI, AuthConfig), or of a docker-style file.

use std::{collections::BTreeMap, fmt, path::Path};

use base64::{
    Engine as _,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use clone8s::cri;
use serde::Deserialize;

use super::super::{ImageError, Result, name::DEFAULT_REGISTRY};

/// Padded or not.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);
/// Larger files are not lists of credentials.
const MAX_FILE: u64 = 4 << 20;

/// A password or a token: never shown.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(String);

impl Secret {
    pub(super) fn reveal(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<secret>")
    }
}

/// What to show to a registry that asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Credentials {
    Anonymous,
    Basic {
        user: String,
        password: Secret,
    },
    /// An identity token: the token server gives access for it (OAuth 2.0, refresh token).
    Refresh(Secret),
    /// A registry token: shown as it is.
    Bearer(Secret),
}

/// The credentials of one pull, and whom they are for.
#[derive(Debug, Clone)]
pub(crate) struct Login {
    given: Credentials,
    /// The only host that they are for, when the caller has said so.
    server: Option<String>,
    file: AuthFile,
}

impl Login {
    /// Reads those of a call; where it has none, the file's count.
    pub(crate) fn read(image: &str, auth: Option<&cri::AuthConfig>, file: Option<&Path>) -> Result<Self> {
        let auth = auth.cloned().unwrap_or_default();
        let entry = Entry {
            username: auth.username,
            password: auth.password,
            auth: auth.auth,
            identitytoken: auth.identity_token,
            registrytoken: auth.registry_token,
        };
        let given = entry
            .credentials()
            .map_err(|problem| ImageError::BadCredentials {
                image: image.to_owned(),
                problem: problem.to_owned(),
            })?;
        Ok(Self {
            given,
            server: Some(canonical(&auth.server_address)).filter(|host| !host.is_empty()),
            file: match file {
                Some(path) => AuthFile::read(path)?,
                None => AuthFile::default(),
            },
        })
    }

    /// What `host` may see of them, when asked for `repository` of `registry`. A mirror stands in for the registry.
    pub(super) fn for_host(&self, host: &str, registry: &str, repository: &str) -> Credentials {
        if self.given != Credentials::Anonymous {
            let fits = match &self.server {
                None => true,
                Some(server) => *server == canonical(host),
            };
            return if fits {
                self.given.clone()
            } else {
                Credentials::Anonymous
            };
        }
        let own = self.file.find(host, repository);
        own.or_else(|| {
            (canonical(host) == canonical(registry)).then(|| self.file.find(registry, repository))?
        })
        .unwrap_or(Credentials::Anonymous)
    }
}

/// `~/.docker/config.json`, or podman's `auth.json`. Helper programs that it may name are not run.
#[derive(Debug, Clone, Default, Deserialize)]
struct AuthFile {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(default)]
struct Entry {
    username: String,
    password: String,
    auth: String,
    identitytoken: String,
    registrytoken: String,
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<credentials>")
    }
}

impl AuthFile {
    /// None is fine: it may come later.
    fn read(path: &Path) -> Result<Self> {
        let problem = |problem: String| ImageError::Hosts {
            path: path.to_owned(),
            problem,
        };
        let text = match super::hosts::read_small(path, MAX_FILE) {
            Ok(Some(text)) => text,
            Ok(None) => return Ok(Self::default()),
            Err(error) => return Err(problem(error.to_string())),
        };
        // Without the parser's own words, which may repeat what stands there.
        serde_json::from_slice(&text).map_err(|error| {
            problem(format!(
                "line {}, column {}: is not JSON of the form {{\"auths\": {{HOST: {{…}}}}}}",
                error.line(),
                error.column()
            ))
        })
    }

    /// The entry for the host, or for the longest part of `host/repository` that has one.
    fn find(&self, host: &str, repository: &str) -> Option<Credentials> {
        let whole = format!("{}/{repository}", canonical(host));
        let fits = |key: &str| {
            let rest = whole.strip_prefix(key)?;
            (rest.is_empty() || rest.starts_with('/')).then_some(key.len())
        };
        let (_, entry) = self
            .auths
            .iter()
            .filter_map(|(key, entry)| Some((fits(&canonical_path(key))?, entry)))
            .max_by_key(|(length, _)| *length)?;
        match entry.credentials() {
            Ok(Credentials::Anonymous) => None,
            Ok(found) => Some(found),
            Err(problem) => {
                tracing::warn!(host, problem, "passed over credentials of the file");
                None
            }
        }
    }
}

impl Entry {
    fn credentials(&self) -> Result<Credentials, &'static str> {
        if !self.registrytoken.is_empty() {
            return Ok(Credentials::Bearer(Secret(self.registrytoken.clone())));
        }
        if !self.identitytoken.is_empty() {
            return Ok(Credentials::Refresh(Secret(self.identitytoken.clone())));
        }
        if !self.username.is_empty() {
            return Ok(Credentials::Basic {
                user: self.username.clone(),
                password: Secret(self.password.clone()),
            });
        }
        if self.auth.is_empty() {
            return Ok(Credentials::Anonymous);
        }
        let decoded = BASE64
            .decode(self.auth.trim())
            .ok()
            .and_then(|bytes| String::from_utf8(bytes).ok());
        let (user, password) = decoded
            .as_deref()
            .and_then(|text| text.split_once(':'))
            .ok_or("`auth` must be user:password in base64")?;
        Ok(Credentials::Basic {
            user: user.to_owned(),
            // Some encoders pad the password with zero bytes.
            password: password.trim_end_matches('\0').into(),
        })
    }
}

/// A host without scheme and path, docker.io's aliases as one.
fn canonical(address: &str) -> String {
    let path = canonical_path(address);
    path.split('/').next().unwrap_or_default().to_owned()
}

/// The same with its path, without an API version at its end.
fn canonical_path(address: &str) -> String {
    let bare = address
        .strip_prefix("https://")
        .or_else(|| address.strip_prefix("http://"))
        .unwrap_or(address)
        .trim_end_matches('/');
    let bare = bare
        .strip_suffix("/v1")
        .or_else(|| bare.strip_suffix("/v2"))
        .unwrap_or(bare);
    let (host, path) = match bare.split_once('/') {
        Some((host, path)) => (host, Some(path)),
        None => (bare, None),
    };
    let host = match host {
        "index.docker.io" | "registry-1.docker.io" | "registry.hub.docker.com" => DEFAULT_REGISTRY,
        other => other,
    };
    match path {
        Some(path) => format!("{host}/{path}"),
        None => host.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn basic(user: &str, password: &str) -> Credentials {
        Credentials::Basic {
            user: user.into(),
            password: password.into(),
        }
    }

    fn login(auth: &cri::AuthConfig) -> Login {
        Login::read("app", Some(auth), None).unwrap()
    }

    #[test]
    fn credentials_come_in_any_of_cris_forms() {
        let of = |auth| login(&auth).for_host("r.io", "r.io", "app");
        let pair = cri::AuthConfig {
            username: "ann".into(),
            password: "s:ecret".into(),
            ..Default::default()
        };
        assert_eq!(of(pair), basic("ann", "s:ecret"));
        for padding in ["", "\0\0"] {
            let encoded = cri::AuthConfig {
                auth: BASE64.encode(format!("ann:s:ecret{padding}")),
                ..Default::default()
            };
            assert_eq!(of(encoded), basic("ann", "s:ecret"));
        }
        let token = cri::AuthConfig {
            registry_token: "t".into(),
            ..Default::default()
        };
        assert_eq!(of(token), Credentials::Bearer("t".into()));
        let identity = cri::AuthConfig {
            identity_token: "i".into(),
            username: "<token>".into(),
            ..Default::default()
        };
        assert_eq!(of(identity), Credentials::Refresh("i".into()));
        assert_eq!(of(cri::AuthConfig::default()), Credentials::Anonymous);
    }

    #[test]
    fn broken_credentials_are_refused_without_being_repeated() {
        let auth = cri::AuthConfig {
            auth: "c2VjcmV0".into(),
            ..Default::default()
        };
        let error = Login::read("app", Some(&auth), None).unwrap_err().to_string();
        assert!(
            error.contains("app") && !error.contains("secret") && !error.contains("c2VjcmV0"),
            "{error}"
        );
    }

    #[rstest]
    #[case("", "mirror:5000", true)]
    #[case("r.io", "r.io", true)]
    #[case("https://r.io/v1/", "r.io", true)]
    #[case("https://index.docker.io/v1/", "registry-1.docker.io", true)]
    #[case("docker.io", "registry-1.docker.io", true)]
    #[case("r.io", "mirror:5000", false)]
    #[case("r.io", "r.io:5000", false)]
    #[case("r.io", "evil-r.io", false)]
    fn a_server_address_limits_who_sees_them(#[case] server: &str, #[case] host: &str, #[case] seen: bool) {
        let auth = cri::AuthConfig {
            username: "ann".into(),
            password: "p".into(),
            server_address: server.into(),
            ..Default::default()
        };
        let expected = if seen {
            basic("ann", "p")
        } else {
            Credentials::Anonymous
        };
        assert_eq!(login(&auth).for_host(host, "r.io", "app"), expected);
    }

    #[test]
    fn a_file_has_credentials_by_host_and_by_path() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        let auth = |user: &str| BASE64.encode(format!("{user}:p"));
        let text = serde_json::json!({
            "auths": {
                "https://index.docker.io/v1/": {"auth": auth("hub")},
                "r.io": {"auth": auth("all")},
                "r.io/team": {"auth": auth("team")},
                "i.io": {"identitytoken": "t"},
                "broken.io": {"auth": "!"},
            },
            "credsStore": "desktop",
        });
        std::fs::write(&path, text.to_string()).unwrap();
        let login = Login::read("app", None, Some(&path)).unwrap();
        let find = |host: &str, repository: &str| login.for_host(host, host, repository);
        assert_eq!(find("registry-1.docker.io", "library/web"), basic("hub", "p"));
        assert_eq!(find("r.io", "app"), basic("all", "p"));
        assert_eq!(find("r.io", "team/app"), basic("team", "p"));
        assert_eq!(find("r.io", "teams/app"), basic("all", "p"));
        assert_eq!(find("i.io", "app"), Credentials::Refresh("t".into()));
        assert_eq!(find("broken.io", "app"), Credentials::Anonymous);
        assert_eq!(find("other.io", "app"), Credentials::Anonymous);
        assert!(!format!("{login:?}").contains(&auth("hub")));

        std::fs::write(&path, r#"{"auths": {"r.io": {"auth": 7, "password": "s3cret"}}}"#).unwrap();
        let error = Login::read("app", None, Some(&path)).unwrap_err().to_string();
        assert!(
            error.contains("config.json") && !error.contains("s3cret"),
            "{error}"
        );
        let absent = dir.path().join("absent");
        assert!(Login::read("app", None, Some(&absent)).is_ok());
    }
}
