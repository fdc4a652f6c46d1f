//! `c8s backup`: all that the cluster's store holds, in one file, while the cluster goes on.

use std::{
    fs::File,
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, anyhow, bail};
use clap::Args;
use clone8s::v1::{BackUpStoreRequest, maintenance_service_client::MaintenanceServiceClient};
use clone8s_apiserver::backup::BackupFile;
use clone8s_daemon::channel::Channel;
use tempfile::NamedTempFile;

use crate::status::explain;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  c8s backup /var/backups/cluster.c8s
  c8s backup --force latest.c8s

Whoever has the file has the cluster: it holds the secrets and the key of the root CA, and only its owner can read it. \
`c8s restore` puts it back.")]
pub struct BackupArgs {
    /// The file to write
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Take the place of a file that is there
    #[arg(long)]
    force: bool,
}

pub async fn run(args: &BackupArgs, channel: &Channel, out: &mut impl Write) -> Result<()> {
    let path = &args.file;
    if !args.force && path.try_exists()? {
        bail!(
            "{}: is there already; choose another name, or take its place with --force",
            path.display()
        );
    }
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    // Beside it, and for its owner alone, until all of it is known to be good.
    let mut beside = NamedTempFile::with_prefix_in(".c8s-backup-", folder)
        .with_context(|| format!("cannot write into the folder {}", folder.display()))?;
    let cannot_write = || format!("cannot write {}", path.display());
    receive(channel, beside.as_file_mut()).await?;
    beside.as_file().sync_all().with_context(cannot_write)?;
    let backup = BackupFile::open(beside.path()).context("the backup did not arrive whole")?;
    let placed = if args.force {
        beside.persist(path)
    } else {
        beside.persist_noclobber(path)
    };
    placed.map_err(|error| error.error).with_context(cannot_write)?;
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .with_context(cannot_write)?;
    writeln!(
        out,
        "{}: {} entries at revision {}",
        path.display(),
        backup.entry_count(),
        backup.header().revision
    )?;
    Ok(())
}

async fn receive(channel: &Channel, file: &mut File) -> Result<()> {
    let refused = |status| anyhow!(explain(&status));
    let mut client = MaintenanceServiceClient::new(channel.clone());
    let answer = client.back_up_store(BackUpStoreRequest {}).await;
    let mut parts = answer.map_err(refused)?.into_inner();
    while let Some(part) = parts.message().await.map_err(refused)? {
        file.write_all(&part.data).context("cannot write the backup")?;
    }
    Ok(())
}
