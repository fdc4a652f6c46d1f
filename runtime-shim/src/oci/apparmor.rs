//! AppArmor profiles (OCI runtime spec 1.0.2, config.md, "Linux Process"; CRI v1, SecurityProfile).

use clone8s::cri::{self, security_profile::ProfileType};

use crate::error::{Error, Result};

const FIELD: &str = "config.linux.security_context.apparmor";
/// Usual profiles by the names that other runtimes load them under; the first that the kernel has is taken.
const USUAL: [&str; 3] = ["clone8s-default", "cri-containerd.apparmor.d", "docker-default"];

/// The profile of a container's process; none for no confinement.
///
/// `loaded` are the names of the kernel's profiles; none where the host has no AppArmor.
pub(super) fn profile(
    security: &cri::LinuxContainerSecurityContext,
    loaded: Option<&[String]>,
) -> Result<Option<String>> {
    let wanted = wanted(security)?;
    let Some(loaded) = loaded else {
        // Whoever asks to be confined must not run unconfined without being told.
        let asked = match wanted {
            Wanted::Nothing | Wanted::Unsaid => return Ok(None),
            Wanted::Usual => "the runtime's default profile".to_owned(),
            Wanted::Named(name) => format!("profile {name:?}"),
        };
        return Err(Error::unmet(
            FIELD,
            format!("{asked} is asked for, and this host has no AppArmor"),
        ));
    };
    let has = |name: &str| loaded.iter().any(|loaded| loaded == name);
    let usual = USUAL.iter().find(|name| has(name)).map(|&name| name.to_owned());
    match wanted {
        Wanted::Nothing => Ok(None),
        Wanted::Unsaid if security.privileged => Ok(None),
        Wanted::Unsaid => Ok(usual),
        Wanted::Usual if usual.is_some() => Ok(usual),
        Wanted::Usual => {
            let problem = format!(
                "none of the usual profiles is loaded ({}); load one with apparmor_parser",
                USUAL.join(", ")
            );
            Err(Error::unmet(FIELD, problem))
        }
        Wanted::Named(name) if has(&name) => Ok(Some(name)),
        Wanted::Named(name) => Err(Error::unmet(
            FIELD,
            format!("profile {name:?} is not loaded; load it with apparmor_parser"),
        )),
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    /// As for [`Wanted::Usual`] where that is to be had, but not for privileged containers.
    Unsaid,
    /// The runtime's default profile.
    Usual,
    Nothing,
    Named(String),
}

fn wanted(security: &cri::LinuxContainerSecurityContext) -> Result<Wanted> {
    let named = |reference: &str| {
        let name = reference.strip_prefix("localhost/").unwrap_or(reference);
        if name.is_empty() {
            return Err(Error::invalid(format!("{FIELD}.localhost_ref"), "missing"));
        }
        Ok(Wanted::Named(name.to_owned()))
    };
    if let Some(profile) = &security.apparmor {
        let kind = ProfileType::try_from(profile.profile_type).map_err(|_| {
            Error::invalid(
                format!("{FIELD}.profile_type"),
                format!("{} is no type of profile", profile.profile_type),
            )
        })?;
        return match kind {
            ProfileType::RuntimeDefault => Ok(Wanted::Usual),
            ProfileType::Unconfined => Ok(Wanted::Nothing),
            ProfileType::Localhost => named(&profile.localhost_ref),
        };
    }
    #[expect(deprecated, reason = "older clients use only this field")]
    let old = security.apparmor_profile.as_str();
    match old {
        "" => Ok(Wanted::Unsaid),
        "unconfined" => Ok(Wanted::Nothing),
        "runtime/default" => Ok(Wanted::Usual),
        reference if reference.starts_with("localhost/") => named(reference),
        other => Err(Error::invalid(
            "config.linux.security_context.apparmor_profile",
            format!("{other:?} is none of runtime/default, unconfined and localhost/<name>"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn asking(kind: ProfileType, reference: &str) -> cri::LinuxContainerSecurityContext {
        cri::LinuxContainerSecurityContext {
            apparmor: Some(cri::SecurityProfile {
                profile_type: kind.into(),
                localhost_ref: reference.into(),
            }),
            ..Default::default()
        }
    }

    #[rstest]
    #[case(ProfileType::RuntimeDefault, "", Some("docker-default"))]
    #[case(ProfileType::Unconfined, "", None)]
    #[case(ProfileType::Localhost, "localhost/mine", Some("mine"))]
    #[case(ProfileType::Localhost, "mine", Some("mine"))]
    fn the_profile_is(#[case] kind: ProfileType, #[case] reference: &str, #[case] expected: Option<&str>) {
        let loaded = ["mine", "docker-default"].map(str::to_owned);
        let found = profile(&asking(kind, reference), Some(&loaded)).unwrap();
        assert_eq!(found.as_deref(), expected);
    }

    #[test]
    fn a_named_profile_that_is_not_there_is_refused() {
        let named = asking(ProfileType::Localhost, "mine");
        for (loaded, text) in [(None, "no AppArmor"), (Some(&[][..]), "not loaded")] {
            let error = profile(&named, loaded).unwrap_err().to_string();
            assert!(error.contains("mine") && error.contains(text), "{error}");
        }
        assert!(profile(&asking(ProfileType::Localhost, ""), None).is_err());
    }

    #[test]
    fn the_runtimes_default_is_refused_where_there_is_none() {
        let default = asking(ProfileType::RuntimeDefault, "");
        for (loaded, text) in [
            (None, "no AppArmor"),
            (Some(&[][..]), "none of the usual profiles"),
        ] {
            let error = profile(&default, loaded).unwrap_err().to_string();
            assert!(error.contains(text), "{error}");
        }
        let unconfined = asking(ProfileType::Unconfined, "");
        assert_eq!(profile(&unconfined, None).unwrap(), None);
    }

    #[test]
    fn who_says_nothing_gets_the_usual_profile_where_it_is_unless_privileged() {
        let loaded = ["cri-containerd.apparmor.d".to_owned()];
        let mut security = cri::LinuxContainerSecurityContext::default();
        let usual = Some("cri-containerd.apparmor.d".to_owned());
        assert_eq!(profile(&security, Some(&loaded)).unwrap(), usual);
        assert_eq!(profile(&security, Some(&[])).unwrap(), None);
        assert_eq!(profile(&security, None).unwrap(), None);
        security.privileged = true;
        assert_eq!(profile(&security, Some(&loaded)).unwrap(), None);
        // What is asked for by name holds for privileged containers too.
        let mut named = asking(ProfileType::Localhost, "cri-containerd.apparmor.d");
        named.privileged = true;
        assert_eq!(profile(&named, Some(&loaded)).unwrap(), usual);
    }

    #[test]
    #[expect(deprecated, reason = "the field is")]
    fn the_older_field_counts_where_the_newer_is_absent() {
        let mut old = cri::LinuxContainerSecurityContext::default();
        for (text, expected) in [
            ("", Wanted::Unsaid),
            ("unconfined", Wanted::Nothing),
            ("runtime/default", Wanted::Usual),
            ("localhost/mine", Wanted::Named("mine".into())),
        ] {
            old.apparmor_profile = text.into();
            assert_eq!(wanted(&old).unwrap(), expected);
        }
        old.apparmor_profile = "mine".into();
        assert!(wanted(&old).is_err());
    }
}
