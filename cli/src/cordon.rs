//! `c8s cordon` and `c8s uncordon`: whether a node takes new pods.

use std::io::Write;

use anyhow::{Result, anyhow};
use clap::Args;
use clone8s::{
    client::Resource as _,
    v1::{Node, NodeSpec, ObjectMeta},
};
use clone8s_daemon::channel::Channel;

use crate::{
    apply::FIELD_MANAGER,
    status::{explain, none_failed},
};

#[derive(Debug, Args)]
pub struct NodesArgs {
    /// The nodes
    #[arg(value_name = "NODE", required = true)]
    names: Vec<String>,
}

/// What a node says to new pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taking {
    NoPods,
    Pods,
}

impl Taking {
    fn word(self) -> &'static str {
        match self {
            Self::NoPods => "cordoned",
            Self::Pods => "uncordoned",
        }
    }
}

/// Goes through all nodes even when some fail, then fails with what failed.
pub async fn run(args: &NodesArgs, taking: Taking, channel: &Channel, out: &mut impl Write) -> Result<()> {
    let mut errors = Vec::new();
    for name in &args.names {
        match set(channel, name, taking).await {
            Ok(()) => writeln!(out, "node/{name} {}", taking.word())?,
            Err(error) => errors.push(format!("node/{name}: {error}")),
        }
    }
    none_failed(&errors)
}

/// Says it to one node.
pub(crate) async fn set(channel: &Channel, name: &str, taking: Taking) -> Result<()> {
    let node = Node {
        metadata: Some(ObjectMeta {
            name: name.to_owned(),
            ..ObjectMeta::default()
        }),
        spec: Some(NodeSpec {
            unschedulable: taking == Taking::NoPods,
        }),
        status: None,
    };
    Node::update_fields(channel, node, &["spec.unschedulable"], FIELD_MANAGER)
        .await
        .map(drop)
        .map_err(|status| anyhow!(explain(&status)))
}
