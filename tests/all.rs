//! Rules about the repository as a whole. `faults.rs` (daemon and broker) and `reference.rs` (networks)
//! belong to their crates, which know where their binary and features are.

mod documents;
mod licences;
mod packaging;
mod tidy;
