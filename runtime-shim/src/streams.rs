//! Exec, Attach and PortForward: what callers are given to type into containers and to reach their ports.
//!
//! ```text
//! CRI: Exec, Attach, PortForward ─► ticket ─► URL ─► server ─┬─ SPDY ───────┐
//!                                                            └─ WebSocket ──┼─► Caller ─► exec, attach
//! clone8s.runtime.v1.StreamingService ─────────────────────────── gRPC ─────┘            (forward: a TCP stream)
//! ```
//!
//! A session knows its caller only as a [`Caller`]: what the transport makes of it is the transport's. A caller that
//! hangs up ends nothing in the container: its input ends, its output is thrown away, and a command that it has
//! started is cleaned up after when it ends.

pub(crate) mod attach;
mod caller;
mod forward;
mod hangup;
mod port_forward;
mod remote_command;
pub(crate) mod server;
pub(crate) mod service;
mod status;
mod tickets;
mod tls;
mod upgrade;
mod websocket;

pub(crate) use self::{
    caller::{Caller, Line, Output, Size, line},
    hangup::Hangup,
};
