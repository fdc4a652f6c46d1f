//! Pulls of one image through CRI, on two servers in turn, beside `ctr images pull`.

use std::{fmt::Write as _, path::PathBuf, process::Command, time::Duration};

use anyhow::Context as _;
use clone8s::cri::{self, image_service_client::ImageServiceClient};
use clone8s_integration::command;
use tokio::time::Instant;
use tonic::transport::Channel;

use crate::{
    machine,
    samples::{Samples, ms},
};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The CRI socket to measure (path)
    #[arg(long)]
    socket: PathBuf,
    /// The CRI socket to compare with (path)
    #[arg(long)]
    versus: PathBuf,
    /// containerd's own socket, to pull with ctr as well (path)
    #[arg(long)]
    ctr: Option<PathBuf>,
    /// The image; it is removed on all sides after each pull
    #[arg(long)]
    image: String,
    /// How many pulls on each side
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
}

/// Measures, and gives a report in Markdown.
pub async fn run(args: &Args) -> anyhow::Result<String> {
    let (socket, versus) = (Side::new(&args.socket), Side::new(&args.versus));
    let [mut ours, mut theirs, mut ctr] = [(); 3].map(|()| Samples::default());
    let mut size = 0;
    // The first of each only fills the registry's page cache. One beside the other, so that whatever else the machine
    // does meets all.
    for round in 0..=args.rounds {
        let (took, bytes) = socket.pull_and_remove(&args.image).await?;
        let (other, _) = versus.pull_and_remove(&args.image).await?;
        let third = args
            .ctr
            .as_ref()
            .map(|socket| ctr_pull(socket, &args.image))
            .transpose()?;
        if round == 0 {
            continue;
        }
        size = bytes;
        ours.push(took);
        theirs.push(other);
        if let Some(third) = third {
            ctr.push(third);
        }
    }
    let mut report = format!(
        "{} of {} MB packed, {} pulls each, on: {}\n\n| | median ms | p95 ms | ratio of medians |\n|---|---:|---:|---:|\n",
        args.image,
        size / 1_000_000,
        args.rounds,
        machine::describe()
    );
    let mut row = |name: String, samples: &Samples| {
        let ratio = samples.median().as_secs_f64() / theirs.median().as_secs_f64();
        let (median, p95) = (ms(samples.median()), ms(samples.percentile(95)));
        // Writing to a string cannot fail.
        let _ = writeln!(report, "| {name} | {median} | {p95} | {ratio:.2} |");
    };
    row(format!("PullImage at {}", args.socket.display()), &ours);
    row(format!("PullImage at {}", args.versus.display()), &theirs);
    if args.ctr.is_some() {
        row("`ctr images pull`".to_owned(), &ctr);
    }
    Ok(report)
}

/// One CRI server.
struct Side(ImageServiceClient<Channel>);

impl Side {
    fn new(socket: &std::path::Path) -> Self {
        Self(ImageServiceClient::new(clone8s_daemon::unix::channel(socket)))
    }

    /// How long the pull took, and the image's size.
    async fn pull_and_remove(&self, image: &str) -> anyhow::Result<(Duration, u64)> {
        let mut client = self.0.clone();
        let spec = cri::ImageSpec {
            image: image.to_owned(),
            ..Default::default()
        };
        let start = Instant::now();
        let request = cri::PullImageRequest {
            image: Some(spec.clone()),
            ..Default::default()
        };
        client.pull_image(request).await.context("pull")?;
        let took = start.elapsed();
        let request = cri::ImageStatusRequest {
            image: Some(spec.clone()),
            verbose: false,
        };
        let status = client.image_status(request).await?.into_inner();
        let size = status.image.context("the image is there after its pull")?.size;
        let request = cri::RemoveImageRequest { image: Some(spec) };
        client.remove_image(request).await.context("remove")?;
        Ok((took, size))
    }
}

fn ctr_pull(socket: &std::path::Path, image: &str) -> anyhow::Result<Duration> {
    let ctr = |args: &[&str]| {
        let mut ctr = Command::new("ctr");
        ctr.arg("--address")
            .arg(socket)
            .args(["--namespace", "bench-pull"])
            .args(args);
        command::run(&mut ctr)
    };
    let start = Instant::now();
    ctr(&["images", "pull", "--plain-http", image])?;
    let took = start.elapsed();
    ctr(&["images", "remove", "--sync", image])?;
    Ok(took)
}
