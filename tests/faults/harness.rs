//! What the fault tests share: a daemon in a folder of its own, the broker, the subscriber and the senders around it, and
//! the faults that are injected into its process.

pub(crate) mod certificates;
pub(crate) mod daemon;
pub(crate) mod dcmtk;
pub(crate) mod http;
pub(crate) mod images;
pub(crate) mod preload;
pub(crate) mod process;
pub(crate) mod random;
pub(crate) mod scripted_broker;
pub(crate) mod signer;
pub(crate) mod site;
