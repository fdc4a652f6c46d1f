//! `c8s cp`: files and folders to and from a container, by the tar in it.

mod archive;
mod extract;
mod operand;
mod tar_call;

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use clone8s_daemon::channel::Channel;

use self::{operand::Operand, tar_call::Container};
use crate::namespace::NamespaceArgs;

/// One of the two is in a pod. Into a folder that is there it goes under its own name, and else under the name that is
/// given. The container needs tar.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  c8s cp index.html web:/www/
  c8s cp web:/etc/hosts ./hosts -c main
  c8s cp ./site other-namespace/web:/www/site")]
pub struct CpArgs {
    /// From where: PATH, or [NAMESPACE/]POD:PATH
    #[arg(value_name = "FROM")]
    from: Operand,
    /// To where: PATH, or [NAMESPACE/]POD:PATH
    #[arg(value_name = "TO")]
    to: Operand,
    /// The container; may be left out when the pod has one
    #[arg(short = 'c', long, default_value = "", hide_default_value = true)]
    container: String,
    #[command(flatten)]
    namespace: NamespaceArgs,
}

pub async fn run(args: &CpArgs, channel: &Channel) -> Result<()> {
    let container = |namespace: &Option<String>, pod: &str| Container {
        channel: channel.clone(),
        namespace: namespace.as_ref().unwrap_or(&args.namespace.namespace).clone(),
        pod: pod.to_owned(),
        name: args.container.clone(),
    };
    match (&args.from, &args.to) {
        (Operand::Here(from), Operand::InPod { namespace, pod, path }) => {
            upload(from, &container(namespace, pod), path).await
        }
        (Operand::InPod { namespace, pod, path }, Operand::Here(to)) => {
            download(&container(namespace, pod), path, to).await
        }
        (Operand::Here(_), Operand::Here(_)) => {
            bail!("neither of the two is in a pod; name one as POD:PATH")
        }
        (Operand::InPod { .. }, Operand::InPod { .. }) => {
            bail!("both are in pods; copy to this machine first, and from here to the other")
        }
    }
}

async fn upload(from: &Path, container: &Container, to: &str) -> Result<()> {
    // "." and ".." have a name, too.
    let from = from.canonicalize().with_context(|| from.display().to_string())?;
    let (folder, name) = if container.has_folder(to).await? {
        let name = from
            .file_name()
            .context("the root folder has no name to go under")?;
        let name = name
            .to_str()
            .with_context(|| format!("{} is not UTF-8", from.display()))?;
        (to.to_owned(), name.to_owned())
    } else if to.ends_with('/') {
        bail!("pod/{}: {to} is no folder in the container", container.pod);
    } else {
        operand::split(to)
    };
    container.put(from, &folder, name).await
}

async fn download(container: &Container, from: &str, to: &Path) -> Result<()> {
    let (folder, name) = operand::split(from);
    let target = if to.is_dir() && name != "." {
        to.join(&name)
    } else {
        to.to_owned()
    };
    container.take(&folder, &name, target).await
}
