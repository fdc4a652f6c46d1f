//! Runtime handlers: which OCI runtime runs a sandbox's containers.

use containerd_client::services::v1::container::Runtime;
use prost_types::Any;

use crate::{
    cgroups::Cgroups,
    config::{CRUN, Config, RUNC, RuntimeHandler},
    error::{Error, Result},
    programs::{self, Programs},
    runtime_options,
    shim::Shim,
};

/// The oldest crun that the shim's tests have run with.
const OLDEST_CRUN: (u32, u32) = (1, 8);

/// The handler of sandboxes that ask for none. It is chosen at the shim's start, and a sandbox keeps the one that it
/// got: what runs one of its containers runs all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DefaultHandler {
    pub(crate) name: String,
    /// For people.
    pub(crate) reason: String,
}

impl DefaultHandler {
    /// The configured one; else crun, the faster one, where the host has what it needs.
    pub(crate) async fn choose(config: &Config, cgroups: &Cgroups, programs: &Programs) -> Self {
        if let Some(name) = &config.default_handler {
            return Self {
                name: name.clone(),
                reason: "configured".into(),
            };
        }
        let crun = match config.handlers.get(CRUN).and_then(|crun| crun.binary.as_deref()) {
            Some(program) => programs.version(program).await,
            None => Err("no handler has crun".into()),
        };
        decide(crun, cgroups.is_unified())
    }
}

/// `crun` is what it says of its version, or why it says nothing.
fn decide(crun: Result<String, String>, only_cgroup_v2: bool) -> DefaultHandler {
    let is_recent = |version: &str| programs::version_number(version).is_some_and(|it| it >= OLDEST_CRUN);
    let (name, reason) = match crun {
        Err(problem) => (RUNC, problem),
        Ok(version) if !is_recent(&version) => {
            let (major, minor) = OLDEST_CRUN;
            (RUNC, format!("{version:?} is not crun {major}.{minor} or newer"))
        }
        // crun refuses a host with both, and on cgroup v1 alone it is seldom run.
        Ok(version) if !only_cgroup_v2 => (
            RUNC,
            format!("{version} is there, but the host has cgroup v1; crun is for hosts with cgroup v2 alone"),
        ),
        Ok(version) => (
            CRUN,
            format!("{version} is there, and the host has cgroup v2 alone"),
        ),
    };
    DefaultHandler {
        name: name.to_owned(),
        reason,
    }
}

impl Shim {
    /// What a caller asks for by name, or the default one, with its own name.
    pub(crate) fn handler<'a>(&'a self, asked: &'a str) -> Result<(&'a str, &'a RuntimeHandler)> {
        let name = match asked {
            "" => &self.default_handler.name,
            name => name,
        };
        let Some(found) = self.config.handlers.get(name) else {
            let known: Vec<_> = self.config.handlers.keys().map(String::as_str).collect();
            let problem = format!("unknown handler {name:?}; known are {}", known.join(", "));
            return Err(Error::invalid("runtime_handler", problem));
        };
        Ok((name, found))
    }

    /// The containerd runtime of a handler.
    pub(crate) fn runtime(&self, handler: &str) -> Result<Runtime> {
        let (_, handler) = self.handler(handler)?;
        Ok(runtime_options::runtime(handler))
    }

    /// The options of a handler's runtime, for a task.
    pub(crate) fn task_options(&self, handler: &str) -> Option<Any> {
        let (_, handler) = self.handler(handler).ok()?;
        runtime_options::options(handler)
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::there(Ok("crun version 1.8.1"), true, "crun", "1.8.1 is there")]
    #[case::newer(Ok("crun version 1.14"), true, "crun", "cgroup v2 alone")]
    #[case::hybrid(Ok("crun version 1.8.1"), false, "runc", "the host has cgroup v1")]
    #[case::old(Ok("crun version 1.4.3"), true, "runc", "not crun 1.8 or newer")]
    #[case::of_no_version(Ok("crun version UNKNOWN"), true, "runc", "not crun 1.8")]
    #[case::absent(Err("no program crun in PATH"), true, "runc", "no program crun in PATH")]
    fn crun_is_chosen_where_it_is_recent_and_cgroups_are_v2_alone(
        #[case] crun: Result<&str, &str>,
        #[case] only_cgroup_v2: bool,
        #[case] name: &str,
        #[case] reason: &str,
    ) {
        let chosen = decide(crun.map(str::to_owned).map_err(str::to_owned), only_cgroup_v2);
        assert_eq!(chosen.name, name);
        assert!(chosen.reason.contains(reason), "{}", chosen.reason);
    }

    /// A program that says this of its version.
    fn program(dir: &std::path::Path, says: &str) -> RuntimeHandler {
        let path = dir.join("crun");
        let text = format!("#!/bin/sh\necho {says}\n");
        clone8s_integration::command::write_program(&path, &text).unwrap();
        RuntimeHandler::own(path.to_str())
    }

    #[tokio::test]
    async fn what_is_configured_wins_and_the_host_decides_else() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("cgroup.controllers"), "cpu").unwrap();
        let unified = Cgroups::under(dir.path());
        let mut config = Config::default();
        config
            .handlers
            .insert(CRUN.into(), program(dir.path(), "crun version 1.9"));
        let programs = Programs::default();
        let chosen = DefaultHandler::choose(&config, &unified, &programs).await;
        assert_eq!(chosen.name, CRUN, "{}", chosen.reason);
        config.default_handler = Some(RUNC.into());
        let chosen = DefaultHandler::choose(&config, &unified, &programs).await;
        assert_eq!(
            (chosen.name.as_str(), chosen.reason.as_str()),
            (RUNC, "configured")
        );
        config.default_handler = None;
        config.handlers.remove(CRUN);
        let chosen = DefaultHandler::choose(&config, &unified, &programs).await;
        assert_eq!(chosen.name, RUNC);
    }
}
