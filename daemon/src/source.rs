//! Where images come from. Each source is one async task that accepts durably and hands tickets to
//! the inference thread.

pub mod folder;
