//! What containers write: how fast it reaches their logs, and how long a command in one takes.

use std::{fs, io::Write as _, path::Path, time::Duration};

use anyhow::{Context as _, ensure};
use clone8s::cri;
use clone8s_integration::Sandbox;
use tokio::time::{Instant, sleep};

use super::{Network, client::Side, sides::Pair};
use crate::samples::Samples;

const RUNS: u32 = 3;
/// As long as usual lines of logs, with its end.
const LINE: usize = 100;
const TIME_LIMIT: Duration = Duration::from_mins(3);

/// Megabytes a second of each side's runs, the median; of what the container writes, not of what the log takes.
pub(super) async fn logs(pair: &Pair, sandbox: &Sandbox, megabytes: u64) -> anyhow::Result<[f64; 2]> {
    let input = sandbox.make_dir("input").join("lines");
    let mut file = std::io::BufWriter::new(fs::File::create(&input)?);
    let lines = megabytes * 1_000_000 / LINE as u64;
    for number in 0..lines {
        writeln!(file, "{number:0>width$}", width = LINE - 1)?;
    }
    file.into_inner()?.sync_all()?;
    let mut rates = [Vec::new(), Vec::new()];
    for _ in 0..RUNS {
        for (side, rates) in pair.sides().into_iter().zip(&mut rates) {
            let took = one_log(side, &input, lines).await?;
            #[expect(clippy::cast_precision_loss, reason = "a rate is shown with three digits")]
            rates.push(megabytes as f64 / took.as_secs_f64());
        }
    }
    fs::remove_file(&input)?;
    Ok(rates.map(|mut rates| {
        rates.sort_by(f64::total_cmp);
        rates[rates.len() / 2]
    }))
}

async fn one_log(side: &Side, input: &Path, lines: u64) -> anyhow::Result<Duration> {
    let mount = cri::Mount {
        container_path: "/lines".into(),
        host_path: input.display().to_string(),
        readonly: true,
        ..Default::default()
    };
    let pod = side.run_sandbox(Network::Host).await?;
    let container = side.create(&pod, &["cat", "/lines"], vec![mount]).await?;
    let log = pod.log();
    side.start(&container).await?;
    let began = Instant::now();
    let (mut size, mut grown) = (0, began);
    // The end of the container is not yet the end of its log on every side: the last growth is.
    loop {
        let now = fs::metadata(&log).map_or(0, |file| file.len());
        if now != size {
            (size, grown) = (now, Instant::now());
        }
        if grown.elapsed() > Duration::from_millis(100) && size > 0 && side.is_exited(&container).await? {
            break;
        }
        ensure!(
            began.elapsed() < TIME_LIMIT,
            "{}: {log} is not complete after {TIME_LIMIT:?}",
            side.name
        );
        sleep(Duration::from_millis(2)).await;
    }
    let written = count_lines(&log)?;
    ensure!(
        written == lines,
        "{}: {log} has {written} of {lines} lines",
        side.name
    );
    side.stop(&pod, &container).await?;
    side.remove(&pod, &container).await?;
    fs::remove_file(&log)?;
    Ok(grown - began)
}

#[expect(clippy::naive_bytecount, reason = "done once, outside of what is measured")]
fn count_lines(path: &str) -> anyhow::Result<u64> {
    let mut lines = 0;
    let mut file = fs::File::open(path).with_context(|| format!("open {path}"))?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        let length = std::io::Read::read(&mut file, &mut buffer)?;
        if length == 0 {
            return Ok(lines);
        }
        lines += buffer[..length].iter().filter(|&&byte| byte == b'\n').count() as u64;
    }
}

/// ExecSync of `true`, in turn.
pub(super) async fn execs(pair: &Pair, number: u32) -> anyhow::Result<[Samples; 2]> {
    let mut samples = [Samples::default(), Samples::default()];
    let mut pods = Vec::new();
    for side in pair.sides() {
        let pod = side.run_sandbox(Network::Host).await?;
        let container = side.create(&pod, &["sleep", "1000000"], Vec::new()).await?;
        side.start(&container).await?;
        pods.push((side, pod, container));
    }
    for _ in 0..number {
        for ((side, _, container), samples) in pods.iter().zip(&mut samples) {
            let began = Instant::now();
            let code = side.exec(container, &["true"]).await?;
            samples.push(began.elapsed());
            ensure!(code == 0, "{}: `true` ended with {code}", side.name);
        }
    }
    for (side, pod, container) in pods {
        side.stop(&pod, &container).await?;
        side.remove(&pod, &container).await?;
    }
    Ok(samples)
}
