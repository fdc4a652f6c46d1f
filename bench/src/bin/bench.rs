//! Measures Clone8s beside what does the same work without it.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Measures Clone8s beside what does the same work without it; run it with --release and as root
#[derive(Debug, Parser)]
#[command(name = "bench", version)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// From CreatePod to the container running, beside `ctr run` of the same image
    Create(clone8s_bench::create::Args),
    /// From CreatePod, or a manifest written, to the container running on a runtime that takes no time: what is not the runtime's
    Share(clone8s_bench::share::Args),
    /// Two CRI servers side by side: our runtime-shim and containerd's own CRI plugin, or any two sockets
    Cri(clone8s_bench::cri::Args),
    /// Gets and lists from the apiserver's memory beside range reads of the etcd below it
    Reads(clone8s_bench::apiserver::reads::Args),
    /// Changes to many watchers of one kind, beside encoding each change for each of them
    Watch(clone8s_bench::apiserver::watch::Args),
    /// Creates through the apiserver beside plain puts to its etcd, and on its embedded store
    Writes(clone8s_bench::apiserver::writes::Args),
    /// From a write's answer to the change in a queue of RabbitMQ
    Publish(clone8s_bench::apiserver::publish::Args),
    /// The apiserver's memory, start and lists with many pods
    Scale(clone8s_bench::apiserver::scale::Args),
    /// What a kubelet takes for many pods while nothing happens
    Node(clone8s_bench::node::Args),
    /// Many nodes, each a kubelet on a runtime in memory, on one apiserver with etcd and RabbitMQ
    Hollow(clone8s_bench::hollow::Args),
    /// PullImage on two CRI sockets in turn, beside `ctr images pull`
    Pull(clone8s_bench::pull::Args),
}

#[tokio::main]
async fn main() -> ExitCode {
    let outcome = match Args::parse().command {
        Command::Create(args) => clone8s_bench::create::run(&args).await,
        Command::Share(args) => Box::pin(clone8s_bench::share::run(&args)).await,
        Command::Cri(args) => clone8s_bench::cri::run(&args).await,
        Command::Reads(args) => clone8s_bench::apiserver::reads::run(&args).await,
        Command::Watch(args) => clone8s_bench::apiserver::watch::run(&args).await,
        Command::Writes(args) => Box::pin(clone8s_bench::apiserver::writes::run(&args)).await,
        Command::Publish(args) => clone8s_bench::apiserver::publish::run(&args).await,
        Command::Scale(args) => clone8s_bench::apiserver::scale::run(&args).await,
        Command::Node(args) => clone8s_bench::node::run(&args).await,
        Command::Hollow(args) => Box::pin(clone8s_bench::hollow::run(&args)).await,
        Command::Pull(args) => clone8s_bench::pull::run(&args).await,
    };
    match outcome {
        Ok(report) => {
            println!("{report}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
