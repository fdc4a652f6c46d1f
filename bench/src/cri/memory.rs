//! What the servers take with many pods.

use futures::{StreamExt as _, TryStreamExt as _, stream};

use super::{Network, client::Side, sides::Pair};

const AT_A_TIME: usize = 5;

/// One look at one side.
#[derive(Debug, Clone, Copy)]
pub(super) struct Memory {
    pub(super) pods: u32,
    /// Resident, of the CRI server's process; bytes.
    pub(super) server: u64,
    /// Of the server, containerd and all shims together, PSS; bytes.
    pub(super) all: Option<u64>,
}

pub(super) async fn measure(pair: &Pair, numbers: &[u32]) -> anyhow::Result<[Vec<Memory>; 2]> {
    let [first, second] = pair.sides();
    Ok([of(first, numbers).await?, of(second, numbers).await?])
}

async fn of(side: &Side, numbers: &[u32]) -> anyhow::Result<Vec<Memory>> {
    let look = |pods| {
        Ok::<_, anyhow::Error>(Memory {
            pods,
            server: side.account.server_memory()?,
            all: side.account.all_memory(),
        })
    };
    let mut looks = vec![look(0)?];
    let mut pods = Vec::new();
    for &number in numbers.iter().filter(|&&number| number > 0) {
        let missing = (number as usize).saturating_sub(pods.len());
        let more: Vec<_> = stream::iter(0..missing)
            .map(|_| async {
                let pod = side.run_sandbox(Network::Host).await?;
                let container = side.create(&pod, &["sleep", "1000000"], Vec::new()).await?;
                side.start(&container).await?;
                Ok::<_, anyhow::Error>((pod, container))
            })
            .buffer_unordered(AT_A_TIME)
            .try_collect()
            .await?;
        pods.extend(more);
        looks.push(look(number)?);
    }
    stream::iter(&pods)
        .map(Ok)
        .try_for_each_concurrent(AT_A_TIME, |(pod, container)| async move {
            side.stop(pod, container).await?;
            side.remove(pod, container).await
        })
        .await?;
    Ok(looks)
}
