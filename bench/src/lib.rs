//! Benchmarks, side by side with peers: each starts the real servers it needs, as the integration tests do, and
//! prints a Markdown table.

pub mod apiserver;
pub mod create;
pub mod cri;
pub mod hollow;
mod machine;
pub mod node;
pub mod pull;
mod samples;
pub mod share;
mod timeline;
