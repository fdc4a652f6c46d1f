//! `c8s migrate`: from the embedded store into an etcd, when one machine is no longer enough.

use std::{fs, io::Write};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use clone8s_apiserver::{
    StoreConfig,
    backup::{self, Existing, Target},
    store::embedded::EmbeddedStore,
};
use clone8s_daemon::etcd::EtcdArgs;

use crate::place::PlaceArgs;

#[derive(Debug, Args)]
#[command(
    mut_arg("etcd", |etcd| etcd.required(true).help(
        "The etcd to move into, such as https://10.0.0.5:2379; may be given several times"
    )),
    after_help = "Example:
  c8s migrate --etcd https://10.0.0.5:2379 --etcd-ca ca.crt --etcd-cert c.crt --etcd-key c.key

The cluster must be stopped, and is started on the etcd afterwards (`c8s up --etcd ...`); its pods run on meanwhile. The embedded \
store stays, under another name.")]
pub struct MigrateArgs {
    #[command(flatten)]
    place: PlaceArgs,
    #[command(flatten)]
    etcd: EtcdArgs,
}

pub async fn run(args: &MigrateArgs, out: &mut impl Write) -> Result<()> {
    let place = args.place.take()?;
    let file = place.store_file();
    if !file.try_exists()? {
        bail!(
            "{}: no embedded store is there to migrate; name its folder with --data-dir or --apiserver-dir",
            file.display()
        );
    }
    let store = EmbeddedStore::open(&file)?;
    let target = Target::open(&StoreConfig::new(&args.etcd, file.clone()), Existing::Refuse).await?;
    let (entries, revision) = backup::entries_of(store).await?;
    let filled = target.fill(entries, revision).await?;
    // A cluster that is started on it by mistake would go on from here on its own.
    let kept = file.with_extension("redb.migrated");
    fs::rename(&file, &kept).with_context(|| {
        format!(
            "migrated, but cannot rename {}: move it away before anything starts on it",
            file.display()
        )
    })?;
    writeln!(
        out,
        "migrated {} entries; the cluster goes on at revision {} in etcd, and what it had stays in {}",
        filled.entries,
        filled.revision,
        kept.display()
    )?;
    Ok(())
}
