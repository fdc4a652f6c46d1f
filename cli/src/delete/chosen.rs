//! What selectors choose, deleted by one call a page.

use std::{collections::HashSet, io::Write, time::Duration};

use anyhow::{Result, anyhow};
use clone8s::{
    client::{Query, Resource},
    v1::ObjectDeletion,
};
use clone8s_daemon::channel::Channel;

use super::{DeleteArgs, wait};
use crate::{
    kind::label,
    status::{explain, none_failed},
};

pub(super) async fn delete<O: Resource>(
    args: &DeleteArgs,
    channel: &Channel,
    out: &mut impl Write,
) -> Result<()> {
    let query = args.choice.query::<O>();
    let (deletions, mut errors) = delete_pages::<O>(args, channel, &query).await?;
    let ending: HashSet<_> = deletions
        .iter()
        .filter(|deletion| !deletion.gone)
        .map(|deletion| deletion.uid.clone())
        .collect();
    if !(ending.is_empty() || args.no_wait || args.dry_run) {
        let place = Query {
            namespace: query.namespace,
            ..Query::default()
        };
        let timeout = Duration::from_secs(args.timeout);
        if let Err(error) = wait::until_gone::<O>(channel, &place, &ending, timeout).await {
            errors.push(error.to_string());
            return none_failed(&errors);
        }
    }
    for deletion in &deletions {
        writeln!(out, "{} deleted{}", label::<O>(&deletion.name), args.note())?;
    }
    none_failed(&errors)
}

/// What was deleted or is ending, and what went wrong with the others.
async fn delete_pages<O: Resource>(
    args: &DeleteArgs,
    channel: &Channel,
    query: &Query,
) -> Result<(Vec<ObjectDeletion>, Vec<String>)> {
    let mut deletions = Vec::new();
    let mut errors = Vec::new();
    let mut page_token = String::new();
    loop {
        let page = O::delete_many(channel, query, &args.options(), page_token)
            .await
            .map_err(|status| anyhow!(explain(&status)))?;
        for deletion in page.deletions {
            match &deletion.error {
                Some(error) => errors.push(format!("{}: {}", label::<O>(&deletion.name), error.message)),
                None => deletions.push(deletion),
            }
        }
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok((deletions, errors));
        }
    }
}
