//! What is wrong with a stream.

use crate::decode::error::DecodeError;
use crate::decode::format::Format;

pub(super) fn malformed(detail: &str) -> DecodeError {
    DecodeError::Malformed {
        format: Format::Dicom,
        detail: format!("its jpeg stream is wrong: {detail}"),
    }
}

pub(super) fn unsupported(what: &str) -> DecodeError {
    DecodeError::Unsupported { what: what.into() }
}

pub(super) fn truncated() -> DecodeError {
    DecodeError::Truncated {
        format: Format::Dicom,
    }
}

pub(super) fn no_table() -> DecodeError {
    malformed("a scan uses a table that is not there")
}
