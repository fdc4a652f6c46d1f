//! A line to a server of the test that carries its answers slowly.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{self, AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, tcp},
    task::JoinSet,
    time::sleep,
};

/// Listens on the loopback; dropping it cuts every connection.
#[derive(Debug)]
pub struct SlowLine {
    address: SocketAddr,
    _accepting: JoinSet<()>,
}

impl SlowLine {
    /// Each connection to it becomes one to `server`, whose answers come at so many bytes a second.
    pub async fn to(server: &str, bytes_per_second: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let server = server.to_owned();
        let mut accepting = JoinSet::new();
        accepting.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let server = server.clone();
                connections.spawn(async move {
                    // Either end may hang up.
                    let _ = carry(client, &server, bytes_per_second).await;
                });
                while connections.try_join_next().is_some() {}
            }
        });
        Self {
            address,
            _accepting: accepting,
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

async fn carry(client: TcpStream, server: &str, bytes_per_second: usize) -> io::Result<()> {
    let server = TcpStream::connect(server).await?;
    let (mut from_client, to_client) = client.into_split();
    let (from_server, mut to_server) = server.into_split();
    tokio::try_join!(
        async {
            io::copy(&mut from_client, &mut to_server).await?;
            to_server.shutdown().await
        },
        slowly(from_server, to_client, bytes_per_second),
    )?;
    Ok(())
}

async fn slowly(
    mut from: tcp::OwnedReadHalf,
    mut to: tcp::OwnedWriteHalf,
    bytes_per_second: usize,
) -> io::Result<()> {
    const TICK: Duration = Duration::from_millis(100);
    let mut piece = vec![0; (bytes_per_second / 10).max(1)];
    loop {
        let length = from.read(&mut piece).await?;
        if length == 0 {
            return to.shutdown().await;
        }
        to.write_all(&piece[..length]).await?;
        sleep(TICK).await;
    }
}
