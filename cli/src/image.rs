//! `c8s image`: images without a registry and without a container builder.

mod archive;
mod layer;

use std::{path::PathBuf, str::FromStr};

use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand};

use self::{archive::Image, layer::Entry};

#[derive(Debug, Args)]
pub struct ImageArgs {
    #[command(subcommand)]
    command: ImageCommand,
}

#[derive(Debug, Subcommand)]
enum ImageCommand {
    /// Pack files into an image archive (OCI layout in a tar file)
    Pack(PackArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "Example:
  c8s image pack --name localhost/web:1 --file /bin/busybox:/bin/busybox --file ./www:/www \\
      -o web.tar -- /bin/busybox httpd -f -p 8080 -h /www
  c8s up --image-archive web.tar

The same files give the same archive, byte for byte: times and owners of files are left out.")]
struct PackArgs {
    /// The image's name, with a registry's host and a tag: localhost/web:1
    #[arg(long, value_name = "REFERENCE")]
    name: String,
    /// A file or a folder, and where it goes in the image; modes are kept; may be given several times
    #[arg(long, value_name = "FROM:TO")]
    file: Vec<Copied>,
    /// A symbolic link and what it points to; may be given several times
    #[arg(long, value_name = "PATH:TARGET")]
    link: Vec<Link>,
    /// A variable of the environment; may be given several times
    #[arg(long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// The folder that the program starts in
    #[arg(long, value_name = "PATH", default_value = "/")]
    workdir: String,
    /// Who the program runs as: a name, or a number, with or without a group after ':'
    #[arg(long, value_name = "USER", default_value = "")]
    user: String,
    /// The processor that the programs are for, as Go names it [default: this machine's]
    #[arg(long, value_name = "ARCH")]
    arch: Option<String>,
    /// The archive to write
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
    /// The program to run and its arguments
    #[arg(last = true, value_name = "PROGRAM", required = true)]
    entrypoint: Vec<String>,
}

/// `FROM:TO`.
#[derive(Debug, Clone)]
struct Copied {
    from: PathBuf,
    to: String,
}

/// `PATH:TARGET`.
#[derive(Debug, Clone)]
struct Link {
    path: String,
    target: String,
}

impl FromStr for Copied {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (from, to) = pair(text)?;
        Ok(Self {
            from: from.into(),
            to,
        })
    }
}

impl FromStr for Link {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (path, target) = pair(text)?;
        if path.starts_with('/') {
            Ok(Self { path, target })
        } else {
            Err(format!("{path:?} must be an absolute path"))
        }
    }
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.rsplit_once(':') {
        Some((left, right)) if !left.is_empty() && !right.is_empty() => {
            Ok((left.to_owned(), right.to_owned()))
        }
        _ => Err("must be two paths with ':' between them".to_owned()),
    }
}

pub fn run(args: &ImageArgs, out: &mut impl std::io::Write) -> Result<()> {
    match &args.command {
        ImageCommand::Pack(pack) => {
            let digest = pack.pack()?;
            writeln!(out, "{} {digest} in {}", pack.name, pack.output.display())?;
            Ok(())
        }
    }
}

impl PackArgs {
    /// Returns the digest of the image's manifest.
    fn pack(&self) -> Result<String> {
        let mut entries = Vec::new();
        for copied in &self.file {
            if !copied.to.starts_with('/') {
                bail!(
                    "--file {}:{}: the second must be an absolute path",
                    copied.from.display(),
                    copied.to
                );
            }
            entries.extend(
                layer::collect(&copied.from, &copied.to)
                    .with_context(|| format!("--file {}", copied.from.display()))?,
            );
        }
        entries.extend(self.link.iter().map(|link| Entry::link(&link.path, &link.target)));
        let image = Image {
            name: self.name.clone(),
            arch: self.arch.clone().unwrap_or_else(go_arch),
            entrypoint: self.entrypoint.clone(),
            env: self.env.clone(),
            workdir: self.workdir.clone(),
            user: self.user.clone(),
        };
        image.write(&entries, &self.output)
    }
}

/// This machine's processor in the words of the OCI image specification, which are Go's.
fn go_arch() -> String {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
    .to_owned()
}

#[cfg(test)]
mod tests;
