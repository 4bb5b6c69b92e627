//! What people and the system around the box do with a daemon: try its configuration, ask it, exchange its
//! credentials, watch it.

pub mod check;
pub mod doctor;
pub mod control;
pub(crate) mod reload;
pub(crate) mod systemd;
