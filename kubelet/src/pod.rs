//! One pod: what is wanted and what is there, the plan from one to the other, and the worker that carries it out.

pub mod action;
pub mod cri;
pub mod dns;
pub mod downward;
pub mod env;
pub mod ephemeral;
pub mod execute;
pub mod hash;
pub mod hook;
pub mod hostname;
pub mod images;
mod masks;
pub mod memory;
mod namespaces;
mod news;
mod observe;
pub mod observed;
pub mod plan;
pub(crate) mod pull;
pub mod resources;
pub mod restart;
pub mod security;
pub mod stages;
pub mod status;
#[cfg(test)]
pub(crate) mod testing;
pub mod update;
pub mod want;
pub(crate) mod worker;
