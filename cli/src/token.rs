//! `c8s token create`: what a new node joins with.

use std::io::Write;

use anyhow::{Result, anyhow};
use clap::{Args, Subcommand};
use clone8s::v1::{CreateJoinTokenRequest, registration_service_client::RegistrationServiceClient};
use clone8s_daemon::channel::Channel;

use crate::status::explain;

#[derive(Debug, Args)]
#[command(after_help = "Example:
  c8s token create --node n1 --ttl 600")]
pub struct TokenArgs {
    #[command(subcommand)]
    command: TokenCommand,
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// Make a join token for one node; it is shown this once and works once
    Create {
        /// The only node name that the token may register [default: any free name]
        #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
        node: String,
        /// Seconds until the token expires, up to 604800
        #[arg(long, value_name = "SECONDS", default_value_t = 3600, value_parser = clap::value_parser!(i32).range(1..=604_800))]
        ttl: i32,
    },
}

pub async fn run(args: &TokenArgs, channel: &Channel, out: &mut impl Write) -> Result<()> {
    let TokenCommand::Create { node, ttl } = &args.command;
    let request = CreateJoinTokenRequest {
        node_name: node.clone(),
        ttl_seconds: *ttl,
    };
    let response = RegistrationServiceClient::new(channel.clone())
        .create_join_token(request)
        .await
        .map_err(|status| anyhow!(explain(&status)))?;
    writeln!(out, "{}", response.into_inner().token)?;
    Ok(())
}
