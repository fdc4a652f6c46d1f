//! A harness of real etcd, RabbitMQ, containerd and registries, and the tests across parts.
//!
//! Each server and each program of ours is a child process with its own folder, ports and sockets, so that tests
//! run beside each other and beside whatever else the machine runs. Dropping the value ends the process; when a
//! test panics, the last lines of every log are printed first.
//!
//! The harness panics where a server is missing or does not come up: a test that cannot run must not pass.

pub mod command;
pub mod containerd;
pub mod control_plane;
pub mod counts;
pub mod crictl;
pub mod etcd;
pub mod foreign;
pub mod grpcurl;
pub mod image;
pub mod leak;
pub mod network;
pub mod node;
pub mod otlp;
pub mod pki;
pub mod pods;
pub mod process;
pub mod programs;
pub mod rabbitmq;
pub mod registry;
pub mod robustness;
pub mod sandbox;
pub mod slow_line;
pub mod wait;

pub use containerd::Containerd;
pub use control_plane::ControlPlane;
pub use crictl::Crictl;
pub use etcd::Etcd;
pub use foreign::Foreign;
pub use grpcurl::Grpcurl;
pub use image::Image;
pub use node::Node;
pub use process::Process;
pub use rabbitmq::RabbitMq;
pub use registry::Registry;
pub use sandbox::Sandbox;
pub use slow_line::SlowLine;
