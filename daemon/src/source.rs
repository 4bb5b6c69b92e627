//! Where images come from. Each source accepts durably and hands tickets to the inference thread.

pub mod dicom;
pub mod folder;

use std::sync::Arc;

use crate::accept::Shelves;
use crate::outbox::Outbox;
use crate::seg::Releases;
use crate::status::Status;

/// What every source needs to accept an image.
#[derive(Debug, Clone)]
pub struct Door {
    pub outbox: Arc<Outbox>,
    pub shelves: Shelves,
    pub status: Arc<Status>,
    pub min_free_bytes: u64,
    /// Who wants to know what an association delivered.
    pub releases: Option<Releases>,
}
