//! The whole apiserver on its embedded store, called over its sockets by the generated clients.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]
#![allow(clippy::unnecessary_wraps, reason = "messages' fields are optional")]

mod applies;
mod batches;
mod deletion;
mod doors;
mod ephemeral;
mod errors;
mod evictions;
mod harness;
mod masks;
mod mirrors;
mod namespaces;
mod nodes;
mod objects;
mod ownership;
mod policies;
mod registration;
mod repeats;
mod selections;
mod streams;
mod tls;
mod tunnel;
mod updates;
mod watches;
