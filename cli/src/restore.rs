//! `c8s restore`: a backup, back into a store that no cluster uses.

use std::{io::Write, path::PathBuf};

use anyhow::Result;
use clap::Args;
use clone8s_apiserver::{
    RootCa, StoreConfig,
    backup::{BackupFile, Existing, Target},
    store::Revision,
};
use clone8s_daemon::etcd::EtcdArgs;

use crate::place::PlaceArgs;

#[derive(Debug, Args)]
#[command(
    mut_arg("etcd", |etcd| etcd.help(
        "Restore into this etcd, such as https://10.0.0.5:2379; may be given several times [default: into a file in the data folder]"
    )),
    after_help = "Examples:
  c8s restore cluster.c8s                          for `c8s up`
  c8s restore cluster.c8s --replace                over what is there
  c8s restore cluster.c8s --etcd https://10.0.0.5:2379 --etcd-ca ca.crt --etcd-cert c.crt --etcd-key c.key

Every API server of the store must be stopped. The root CA goes into the API server's data folder; copy its pki folder where \
several API servers share an etcd.")]
pub struct RestoreArgs {
    /// The backup
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    place: PlaceArgs,
    #[command(flatten)]
    etcd: EtcdArgs,
    /// Remove what the store holds, and take the backup's root CA in the place of another
    #[arg(long)]
    replace: bool,
}

pub async fn run(args: &RestoreArgs, out: &mut impl Write) -> Result<()> {
    let existing = if args.replace {
        Existing::Replace
    } else {
        Existing::Refuse
    };
    let backup = BackupFile::open(&args.file)?;
    let header = backup.header().clone();
    let place = args.place.take()?;
    // All that can be refused is refused before the first change.
    let root_ca = match header.ca_key.as_str() {
        "" => None,
        key => Some(RootCa::check(
            &header.ca_certificate,
            key,
            place.apiserver(),
            existing,
        )?),
    };
    let store = StoreConfig::new(&args.etcd, place.store_file());
    let target = Target::open(&store, existing).await?;
    if let Some(root_ca) = root_ca {
        root_ca.write()?;
    }
    let filled = target.fill(backup.entries()?, Revision(header.revision)).await?;
    writeln!(
        out,
        "restored {} entries as of revision {}; the cluster goes on at revision {}",
        filled.entries, header.revision, filled.revision
    )?;
    Ok(())
}
