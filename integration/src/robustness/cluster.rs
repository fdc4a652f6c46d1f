//! Three apiservers on an etcd cluster of three members and a RabbitMQ, each at a place of its own.

use std::{path::PathBuf, time::Duration};

use clone8s::{
    client::{Query, Resource as _},
    v1::Node,
};
use tonic::transport::Channel;

use crate::{
    Process, RabbitMq, Sandbox, etcd,
    network::{Network, Place},
    programs::program,
    wait,
};

pub(super) const MEMBERS: usize = 3;
pub(super) const APISERVERS: usize = 3;

/// How many of its changes the store keeps at least. While the broker is away, what is written has to fit.
pub(super) const HISTORY: i64 = 5_000;

/// A program at its place.
#[derive(Debug)]
pub struct Server {
    pub process: Process,
    pub place: Place,
}

/// What runs; the network is apart, so that whoever talks to the servers enters it first.
#[derive(Debug)]
pub struct Cluster {
    pub apiservers: Vec<Server>,
    pub etcd: Vec<Server>,
    pub broker: Broker,
    pub access: Access,
}

#[derive(Debug)]
pub struct Broker {
    pub rabbitmq: RabbitMq,
    pub place: Place,
}

/// Where clients find the servers.
#[derive(Debug, Clone)]
pub struct Access {
    sockets: Vec<PathBuf>,
    pub(super) etcd: Vec<String>,
    pub amqp: String,
}

impl Cluster {
    pub async fn start(sandbox: &Sandbox, network: &mut Network) -> Self {
        let mut places = Vec::new();
        for number in 0..MEMBERS {
            places.push(network.place(&format!("etcd-{number}")).await);
        }
        let etcd: Vec<_> = places.iter().map(|place| client_url(place.address())).collect();
        let members = members(sandbox, places);
        let place = network.place("broker").await;
        let rabbitmq = RabbitMq::at(sandbox, &place).await;
        let amqp = rabbitmq.vhost();
        let mut apiservers = Vec::new();
        for number in 0..APISERVERS {
            let place = network.place(&format!("apiserver-{number}")).await;
            apiservers.push(apiserver(sandbox, number, place, &etcd, &amqp));
        }
        let access = Access {
            sockets: (0..APISERVERS).map(|number| socket(sandbox, number)).collect(),
            etcd,
            amqp,
        };
        let cluster = Self {
            apiservers,
            etcd: members,
            broker: Broker { rabbitmq, place },
            access,
        };
        cluster.access.ready().await;
        cluster
    }
}

impl Access {
    /// A new connection to each apiserver.
    pub fn channels(&self) -> Vec<Channel> {
        self.sockets.iter().map(clone8s_daemon::unix::channel).collect()
    }

    /// Waits until every apiserver answers from its store.
    pub async fn ready(&self) {
        for socket in &self.sockets {
            let channel = clone8s_daemon::unix::channel(socket);
            let everything = Query::default();
            wait::until(&format!("{} answers", socket.display()), || async {
                let listed = Node::list_all(&channel, &everything);
                tokio::time::timeout(Duration::from_secs(5), listed).await??;
                Ok(())
            })
            .await;
        }
    }
}

fn members(sandbox: &Sandbox, places: Vec<Place>) -> Vec<Server> {
    let name = |number: usize| format!("etcd-{number}");
    let cluster: Vec<_> = places
        .iter()
        .enumerate()
        .map(|(number, place)| format!("{}={}", name(number), peer_url(place.address())))
        .collect();
    let cluster = cluster.join(",");
    let start = |(number, place): (usize, Place)| {
        let process = place.process(&name(number), "etcd");
        let urls = etcd::Urls {
            client: client_url(place.address()),
            peer: peer_url(place.address()),
        };
        let data = sandbox.dir().join(name(number));
        Server {
            process: etcd::member(process, &name(number), &data, &urls, &cluster).started(),
            place,
        }
    };
    places.into_iter().enumerate().map(start).collect()
}

fn apiserver(sandbox: &Sandbox, number: usize, place: Place, etcd: &[String], amqp: &str) -> Server {
    let name = format!("apiserver-{number}");
    let mut process = place
        .process(&name, program("apiserver"))
        .arg("--data-dir")
        .arg(sandbox.make_dir(&name))
        .arg("--socket")
        .arg(socket(sandbox, number))
        .args(["--amqp", amqp])
        .args(["--history-changes", &HISTORY.to_string()])
        // Seconds. The apiserver looks after its history every two.
        .args(["--history-age", "120"]);
    // Each begins with another member.
    for member in 0..etcd.len() {
        process = process.args(["--etcd", &etcd[(number + member) % etcd.len()]]);
    }
    Server {
        process: process.started(),
        place,
    }
}

fn socket(sandbox: &Sandbox, number: usize) -> PathBuf {
    sandbox.dir().join(format!("api-{number}.sock"))
}

fn client_url(address: &str) -> String {
    format!("http://{address}:2379")
}

fn peer_url(address: &str) -> String {
    format!("http://{address}:2380")
}
