//! The programs of this workspace, as cargo builds them.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use anyhow::Context as _;

use crate::command;

/// The path of one of our programs, all of which are built once for each test binary.
///
/// # Panics
/// When the workspace does not build or has no such program.
pub fn program(name: &str) -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let path = BUILT
        .get_or_init(|| build().expect("the programs build"))
        .join(name);
    assert!(path.exists(), "the workspace has no program {name}");
    path
}

/// Builds into the folder that this test runs from, in its profile, and gives that folder.
fn build() -> anyhow::Result<PathBuf> {
    // target/debug/deps/<test>-<hash>, or target/debug/<program>.
    let executable = env::current_exe()?;
    let folder = executable.parent().context("a folder")?;
    let folder = if folder.ends_with("deps") {
        folder.parent().context("a folder")?
    } else {
        folder
    };
    let profile = match folder
        .file_name()
        .and_then(|name| name.to_str())
        .context("a profile")?
    {
        "debug" => "dev",
        other => other,
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("the workspace")?;
    let target = folder.parent().context("a target folder")?;
    command::run(
        Command::new(env!("CARGO"))
            .current_dir(root)
            // The whole workspace, as the tests are built: a part would unify features in another way and build
            // the dependencies again.
            .args([
                "build",
                "--quiet",
                "--workspace",
                "--bins",
                "--profile",
                profile,
                "--target-dir",
            ])
            .arg(target),
    )?;
    Ok(folder.to_owned())
}
